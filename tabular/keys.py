"""Name rows and entities by the values of several columns.

A key is a text: the compact JSON array of its values, so that 1 and "1" differ and no separator can be forged. Instants
are integers of microseconds. A key with a null in it names nothing: None.
"""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

Ints = npt.NDArray[np.int64]
# When a row that was never corrected is superseded: after every cut-off.
NEVER = 2**62
Lots = npt.NDArray[np.uint64]
# Lots are below this.
LOTS = 2**64
_encoded = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def encode(columns: Sequence[pa.Array | pa.ChunkedArray]) -> list[str | None]:
    """Return the key of each row."""
    return encode_plain([plain(column) for column in columns])


def encode_plain(lists: Sequence[Sequence[object]]) -> list[str | None]:
    """Return the key of each row, of columns as `plain` returns them."""
    if len(lists) == 1:
        return [None if value is None else f"[{_encoded(value)}]" for value in lists[0]]
    return [None if None in values else _encoded(values) for values in zip(*lists, strict=True)]


def lots(columns: Sequence[pa.Array | pa.ChunkedArray], drawn_for: str = "") -> Lots:
    """Return a lot of each row, evenly spread below `LOTS`: the first 8 bytes of SHA-256 of its key's text.

    Anyone can tell a row's lot, whatever else is in the table. Lots drawn for different things do not depend on each
    other.
    """
    drawn = (hashlib.sha256((drawn_for + (key or "")).encode()).digest()[:8] for key in encode(columns))
    return np.fromiter((int.from_bytes(each, "big") for each in drawn), dtype=np.uint64, count=len(columns[0]))


def codes(*tables: Sequence[pa.Array | pa.ChunkedArray]) -> list[Ints]:
    """Give equal keys equal codes from 0 across tables, and -1 to keys with a null.

    Each argument is one table's key columns, in the same order and of the same types.
    """
    ends = np.cumsum([len(columns[0]) for columns in tables])
    together: Ints | None = None
    for parts in zip(*tables, strict=True):
        values = pa.chunked_array([chunk for part in parts for chunk in _chunks(part)], type=parts[0].type)
        indices = values.combine_chunks().dictionary_encode().indices
        code = np.asarray(pc.fill_null(indices, -1).cast(pa.int64()).to_numpy())
        if together is None:
            together = code
            continue
        null = (together < 0) | (code < 0)
        mixed, _ = pd.factorize(together * (int(code.max(initial=0)) + 1) + code)
        together = np.where(null, -1, mixed).astype(np.int64)
    if together is None:
        raise ValueError("a key needs at least one column")
    return np.split(together, ends[:-1])


def latest_rows(code: Ints, *orders: Ints) -> Ints:
    """Return, ascending, the row numbers of each code's last row by `orders` (most important first), then by place.

    Rows of code -1 are left out.
    """
    if np.bincount(code[code >= 0]).max(initial=0) <= 1:
        return np.flatnonzero(code >= 0)  # no code comes twice, as in most tables: nothing to sort
    ranked = np.lexsort((*reversed(orders), code)) if orders else np.argsort(code, kind="stable")
    ordered = code[ranked]
    last = np.append(ordered[1:] != ordered[:-1], True) if len(ordered) else np.zeros(0, dtype=np.bool_)
    return np.sort(ranked[last & (ordered >= 0)])


def superseded(code: Ints, available: Ints) -> Ints | None:
    """Return when each row's next version takes its place; NEVER where it is the last, None where no code comes twice.

    Rows of one code, of which there are no gaps from 0 on, are versions of one row; they follow each other by available
    time, then place.
    """
    if int(code.max(initial=-1)) + 1 == len(code):
        return None
    ranked = np.lexsort((available, code))
    ordered = code[ranked]
    following = np.flatnonzero(ordered[1:] == ordered[:-1])
    found = np.full(len(code), NEVER, dtype=np.int64)
    found[ranked[following]] = available[ranked[following + 1]]
    return found


def _chunks(values: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    return list(values.chunks) if isinstance(values, pa.ChunkedArray) else [values]


def plain(values: pa.Array | pa.ChunkedArray) -> list[object]:
    """Return a column's values: instants as microseconds, None for null."""
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.int64())
    found: list[object] = values.to_pylist()
    return found
