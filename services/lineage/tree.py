"""The Merkle tree over the log: leaf n is the record at position n + 1.

Leaf hashes lie beside the records. Of the nodes above, those at every fourth level are stored, in the transaction that
completes them; whatever lies between is hashed from 16 of them at most. So a proof in a log of a million events reads
one tile of leaves and one of level 4, and the few above are in memory.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

from lineal import merkle
from lineal.merkle import Growing, Node

TILE_LEVELS = 4
TILE = 1 << TILE_LEVELS
# The stored levels of which a proof reads a tile each, at once with its record; those above fit into memory.
TILES_OF = (0, TILE_LEVELS)
_NOT_READ: tuple[int, int, list[list[bytes]]] = (0, 0, [])
# Full tiles never change. Those above the leaves, 20 MiB at most, are all of a log of two million events.
_CACHED_TILES = 8192
# Nor do full subtrees in a tile that still grows, which are in nearly every proof, or of leaves.
_CACHED_NODES = 1024


class TreeIncomplete(RuntimeError):
    """Stored hashes are missing, which no crash can cause."""


class Hashes(Protocol):
    """Where stored hashes are read from."""

    def leaf_hashes(self, start: int, end: int) -> list[bytes]:
        """Return the hashes of the leaves [start, end)."""
        ...

    def node_hashes(self, level: int, start: int, end: int) -> list[bytes]:
        """Return the hashes of the nodes [start, end) of a stored level."""
        ...


class Tree:
    """Proofs about any size that the log has had. Blocking."""

    def __init__(self, hashes: Hashes) -> None:
        self._hashes = hashes
        self._full_tile = lru_cache(_CACHED_TILES)(self._read_tile)
        self._node = lru_cache(_CACHED_NODES)(self._read_node)

    def root(self, size: int) -> bytes:
        """Return the root over the first `size` leaves."""
        return merkle.root_of_peaks([self._hash(node, size) for node in merkle.peaks(size)])

    def inclusion(self, index: int, size: int, tiles: Sequence[Sequence[bytes]]) -> list[bytes]:
        """Return the proof that leaf `index` is in the tree of `size` leaves; `tiles` are the hashes of `tiles_of`."""
        read = {}
        for base, (start, end), hashes in zip(TILES_OF, tiles_of(index, size), tiles, strict=True):
            _check_read(base, start, end, hashes)
            read[base] = start, end, merkle.levels(hashes)

        def hashed(node: Node) -> bytes:
            base = node.level // TILE_LEVELS * TILE_LEVELS
            start, end, levels = read.get(base, _NOT_READ)
            if start <= node.index << node.level - base < end:
                return levels[node.level - base][node.index - (start >> node.level - base)]
            return self._hash(node, size)

        return _path(merkle.inclusion_ranges(index, size), hashed)

    def consistency(self, old: int, size: int) -> list[bytes]:
        """Return the proof that the tree of `old` leaves is the beginning of the one of `size`."""
        return _path(merkle.consistency_ranges(old, size), lambda node: self._hash(node, size))

    def growing(self, size: int) -> Growing:
        """Return the tree of `size` leaves, ready to grow."""
        return Growing(size, [self._hash(node, size) for node in merkle.peaks(size)])

    def _hash(self, node: Node, size: int) -> bytes:
        base = node.level // TILE_LEVELS * TILE_LEVELS
        start = node.index << node.level - base
        tile = start // TILE
        if base and (tile + 1) * TILE << base <= size:
            return self._full_tile(base, tile)[node.level - base][node.index % (TILE >> node.level - base)]
        return self._node(base, start, node.index + 1 << node.level - base)

    def _read_tile(self, base: int, tile: int) -> list[list[bytes]]:
        return merkle.levels(self._read(base, tile * TILE, (tile + 1) * TILE))

    def _read_node(self, base: int, start: int, end: int) -> bytes:
        return merkle.root(self._read(base, start, end))

    def _read(self, base: int, start: int, end: int) -> list[bytes]:
        found = self._hashes.node_hashes(base, start, end) if base else self._hashes.leaf_hashes(start, end)
        _check_read(base, start, end, found)
        return found


def tiles_of(index: int, size: int) -> list[merkle.Range]:
    """Return the nodes that share a tile with a leaf in a tree of `size` leaves, at each level of `TILES_OF`."""
    starts = [(index >> base) // TILE * TILE for base in TILES_OF]
    return [(start, min(start + TILE, size >> base)) for base, start in zip(TILES_OF, starts, strict=True)]


def _path(ranges: Sequence[merkle.Range], hashed: Callable[[Node], bytes]) -> list[bytes]:
    return [merkle.root_of_peaks([hashed(node) for node in merkle.nodes_of(part)]) for part in ranges]


def _check_read(base: int, start: int, end: int, found: Sequence[bytes]) -> None:
    if len(found) != end - start:
        raise TreeIncomplete(
            f"the tree lacks nodes {start} to {end} of level {base}: the database was changed or restored in part; "
            "restore it as a whole"
        )
