"""The state of one view in memory, as a store keeps it."""

from collections.abc import Mapping, Sequence

from services.features.chunks import Chunk
from services.features.state import Changed, Version


class MemoryState:
    def __init__(self) -> None:
        self.chunks: dict[str, dict[int, Chunk]] = {}
        self.known: dict[str, list[Version]] = {}

    def tails(self, entities: Sequence[str]) -> dict[str, list[Chunk]]:
        return {name: list(self.chunks[name].values()) for name in entities if name in self.chunks}

    def whole(self, wanted: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Chunk]:
        return {(name, n): self.chunks[name][n] for name, n in wanted if n in self.chunks.get(name, {})}

    def versions(self, row_keys: Sequence[str]) -> dict[str, list[Version]]:
        return {key: self.known[key] for key in row_keys if key in self.known}

    def take(self, changed: Sequence[Changed], versions: Mapping[str, list[Version]]) -> None:
        self.known |= versions
        for change in changed:
            held = self.chunks.setdefault(change.entity, {})
            held |= {chunk.number: chunk for chunk in (*change.rewritten, *change.new)}
            for number in change.forgotten:
                del held[number]

    def packed(self, entity: str) -> tuple[bytes, bytes]:
        held = self.chunks.get(entity, {}).values()
        return b"".join(chunk.numbers for chunk in held), b"".join(chunk.texts for chunk in held)
