"""How an entity's rows are cut into chunks, and which chunks may be forgotten: pure decisions.

Chunks are filled to `CHUNK_ROWS` in log order, so that adding a row rewrites one small chunk. A chunk is forgotten when
no answer can need it. Answers are exact for cut-offs from the horizon on, which is `MARGIN` before the newest available
time that the entity has: rows that come in the order they became available are always answered exactly, and a replay
may ask up to two days back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.features.packing import Layout, Packed
from tabular.operators import STATIC_TIME

CHUNK_ROWS = 128
MARGIN = 2 * 24 * 3600 * 1_000_000


@dataclass(frozen=True)
class Chunk:
    """A stored chunk; `numbers` and `texts` are only there when it has room."""

    number: int
    rows: int
    max_event: int
    max_available: int
    numbers: bytes = b""
    texts: bytes = b""


def grown(last: Chunk | None, records: npt.NDArray[np.int64], lines: Sequence[bytes]) -> list[tuple[int, Packed]]:
    """Add rows after an entity's last chunk; return the chunks to write, by number."""
    number = last.number if last else 0
    room = CHUNK_ROWS - last.rows if last else 0
    written: list[tuple[int, Packed]] = []
    if last is not None and room > 0:
        head = _packed(records[:room], lines[:room])
        written.append(
            (
                number,
                Packed(
                    last.rows + head.rows,
                    last.numbers + head.numbers,
                    last.texts + head.texts,
                    max(last.max_event, head.max_event),
                    max(last.max_available, head.max_available),
                ),
            )
        )
    for start in range(room, len(records), CHUNK_ROWS):
        number += 1
        end = start + CHUNK_ROWS
        written.append((number, _packed(records[start:end], lines[start:end])))
    return written


def forgettable(layout: Layout, chunks: Sequence[Chunk]) -> list[int]:
    """Return the numbers of the chunks that no answer from the horizon on can need."""
    if not chunks:
        return []
    if chunks[-1].max_event == STATIC_TIME:
        # Only the latest row of a static dataset is ever read.
        return [chunk.number for chunk in chunks[:-1]]
    horizon = max(chunk.max_available for chunk in chunks) - MARGIN
    # What is known for sure at the horizon: chunks of which every row was available. Each has a row as new as its
    # newest event, so that as many of them as lags look back make up for what is forgotten.
    events = sorted((chunk.max_event for chunk in chunks if chunk.max_available <= horizon), reverse=True)
    if len(events) < layout.lag:
        return []
    known = events[layout.lag - 1]
    # The last one stays, so that numbers only grow.
    return [
        chunk.number
        for chunk in chunks[:-1]
        if chunk.max_event <= horizon - layout.longest_window and chunk.max_event < known
    ]


def _packed(records: npt.NDArray[np.int64], lines: Sequence[bytes]) -> Packed:
    return Packed(len(records), records.tobytes(), b"".join(lines), int(records[:, 0].max()), int(records[:, 1].max()))
