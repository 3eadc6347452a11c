"""How an entity's rows are cut into chunks, and which chunks may be forgotten: pure decisions.

Chunks are filled to `CHUNK_ROWS` in log order, so that adding a row rewrites one small chunk, and a row's number says
where it lies. A chunk is forgotten when no answer can need it. Answers are exact for cut-offs from the horizon on,
which is `MARGIN` before the newest available time that the entity has: rows that come in the order they became
available are always answered exactly, and a replay may ask up to two days back.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.features.packing import AVAILABLE, EVENT, SUPERSEDED, Layout
from tabular.keys import NEVER
from tabular.operators import STATIC_TIME

CHUNK_ROWS = 128
MARGIN = 2 * 24 * 3600 * 1_000_000
# The newest lasting event of a chunk without one: before those of static rows.
NO_EVENT = -(2**62)


@dataclass(frozen=True)
class Chunk:
    """Rows of one entity that follow each other, by number from 1; without their bytes where those are not needed.

    `lasting_event` is the greatest event time of rows that are not superseded; `revision` counts how often rows were.
    """

    number: int
    rows: int
    max_event: int
    max_available: int
    lasting_event: int
    revision: int = 0
    numbers: bytes = b""
    texts: bytes = b""


def place_of(row: int) -> tuple[int, int]:
    """Return the chunk that an entity's row lies in, by its number from 0 in log order, and its place there."""
    return row // CHUNK_ROWS + 1, row % CHUNK_ROWS


def next_row(last: Chunk | None) -> int:
    """Return the number of the row that comes after an entity's last chunk."""
    return (last.number - 1) * CHUNK_ROWS + last.rows if last else 0


def grown(last: Chunk | None, records: npt.NDArray[np.int64], lines: Sequence[bytes]) -> list[Chunk]:
    """Add rows after an entity's last chunk; return the chunks to write."""
    number = last.number if last else 0
    room = CHUNK_ROWS - last.rows if last else 0
    written: list[Chunk] = []
    if last is not None and room > 0:
        head = _chunk(number, records[:room], lines[:room])
        written.append(
            Chunk(
                number,
                last.rows + head.rows,
                max(last.max_event, head.max_event),
                max(last.max_available, head.max_available),
                max(last.lasting_event, head.lasting_event),
                last.revision,
                last.numbers + head.numbers,
                last.texts + head.texts,
            )
        )
    for start in range(room, len(records), CHUNK_ROWS):
        number += 1
        end = start + CHUNK_ROWS
        written.append(_chunk(number, records[start:end], lines[start:end]))
    return written


def superseded(chunk: Chunk, times: Mapping[int, int], layout: Layout) -> Chunk:
    """Say of rows by their place in a chunk when they are superseded."""
    records = np.frombuffer(chunk.numbers, dtype="<i8").reshape(-1, layout.width // 8).copy()
    records[list(times), SUPERSEDED] = list(times.values())
    return Chunk(
        chunk.number,
        chunk.rows,
        chunk.max_event,
        chunk.max_available,
        _lasting_event(records[:, EVENT].tolist(), records[:, SUPERSEDED].tolist()),
        chunk.revision + 1,
        records.tobytes(),
        chunk.texts,
    )


def forgettable(layout: Layout, chunks: Sequence[Chunk]) -> list[int]:
    """Return the numbers of the chunks that no answer from the horizon on can need while no more rows are corrected."""
    if not chunks:
        return []
    if chunks[-1].max_event == STATIC_TIME:
        # Only the latest row of a static dataset is ever read, the last that is not superseded.
        kept = max((chunk.number for chunk in chunks if chunk.lasting_event != NO_EVENT), default=0)
        return [chunk.number for chunk in chunks[:-1] if chunk.number < kept]
    horizon = max(chunk.max_available for chunk in chunks) - MARGIN
    # What is known for sure at the horizon: chunks of which every row was available. Each has a row as new as its
    # newest lasting event, so that as many of them as lags look back make up for what is forgotten.
    events = sorted((chunk.lasting_event for chunk in chunks if chunk.max_available <= horizon), reverse=True)
    if len(events) < layout.lag:
        return []
    known = events[layout.lag - 1]
    # The last one stays, so that numbers only grow.
    return [
        chunk.number
        for chunk in chunks[:-1]
        if chunk.max_event <= horizon - layout.longest_window and chunk.max_event < known
    ]


def _chunk(number: int, records: npt.NDArray[np.int64], lines: Sequence[bytes]) -> Chunk:
    # Most are of one or two rows, for which lists are quicker than arrays.
    events, available, superseded = zip(*records[:, [EVENT, AVAILABLE, SUPERSEDED]].tolist(), strict=True)
    return Chunk(
        number,
        len(records),
        max(events),
        max(available),
        _lasting_event(events, superseded),
        0,
        records.tobytes(),
        b"".join(lines),
    )


def _lasting_event(events: Iterable[int], superseded: Iterable[int]) -> int:
    return max((event for event, time in zip(events, superseded, strict=True) if time == NEVER), default=NO_EVENT)
