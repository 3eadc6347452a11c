"""The stored tree answers as the whole one does, at any size and with any part of it in tiles."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineal import merkle
from lineal.merkle import Growing, Node
from services.lineage.tree import TILE_LEVELS, Tree, TreeIncomplete, tiles_of

_LEAVES = [merkle.leaf_hash(str(n).encode()) for n in range(70_000)]


class Hashes:
    """What the log stores of a tree."""

    def __init__(self) -> None:
        growing = Growing()
        self.nodes: dict[Node, bytes] = {}
        for leaf in _LEAVES:
            self.nodes.update(growing.add(leaf, TILE_LEVELS))
        self.reads = 0

    def leaf_hashes(self, start: int, end: int) -> list[bytes]:
        self.reads += 1
        return _LEAVES[start:end]

    def node_hashes(self, level: int, start: int, end: int) -> list[bytes]:
        self.reads += 1
        return [self.nodes[Node(level, n)] for n in range(start, end) if Node(level, n) in self.nodes]


def tiles(index: int, size: int) -> list[list[bytes]]:
    (start, end), (first, last) = tiles_of(index, size)
    return [_LEAVES[start:end], [_HASHES.nodes[Node(4, n)] for n in range(first, last)]]


_HASHES = Hashes()
_SIZES = st.one_of(st.integers(1, 600), st.integers(1, len(_LEAVES)), st.just(65_536), st.just(65_537))


def test_only_every_fourth_level_is_stored() -> None:
    assert {node.level for node in _HASHES.nodes} == {4, 8, 12, 16}
    assert len(_HASHES.nodes) == sum(70_000 // 16**n for n in (1, 2, 3, 4))


@settings(max_examples=40)
@given(_SIZES, st.data())
def test_proofs_lead_to_the_root(size: int, data: st.DataObject) -> None:
    tree = Tree(_HASHES)
    root = merkle.root(_LEAVES[:size])
    assert tree.root(size) == tree.growing(size).root() == root
    index = data.draw(st.integers(0, size - 1))
    merkle.check_inclusion(_LEAVES[index], index, size, tree.inclusion(index, size, tiles(index, size)), root)
    old = data.draw(st.integers(0, size))
    merkle.check_consistency(old, merkle.root(_LEAVES[:old]), size, root, tree.consistency(old, size))


def test_a_proof_reads_few_tiles() -> None:
    hashes = Hashes()
    Tree(hashes).inclusion(12_345, 70_000, tiles(12_345, 70_000))
    assert hashes.reads <= 11


def test_missing_nodes_are_told() -> None:
    hashes = Hashes()
    del hashes.nodes[Node(8, 50)]
    with pytest.raises(TreeIncomplete, match="level 8"):
        Tree(hashes).inclusion(12_345, 70_000, tiles(12_345, 70_000))
