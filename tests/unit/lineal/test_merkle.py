"""Merkle trees and their proofs, against RFC 6962's recursive definition and its known answers."""

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineal import merkle
from lineal.merkle import Growing, ProofWrong, check_consistency, check_inclusion

# The leaves and roots that Certificate Transparency's implementations are tested with.
_KNOWN = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "60" * 16)]
_ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
}


def _mth(leaves: list[bytes]) -> bytes:
    """Merkle Tree Hash, word for word as in RFC 6962, section 2.1."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return merkle.node_hash(_mth(leaves[:k]), _mth(leaves[k:]))


def _leaves(size: int) -> list[bytes]:
    return [merkle.leaf_hash(str(n).encode()) for n in range(size)]


def _path(leaves: list[bytes], ranges: list[tuple[int, int]]) -> list[bytes]:
    return [_mth(leaves[start:end]) for start, end in ranges]


@pytest.mark.parametrize("size", sorted(_ROOTS))
def test_known_answers(size: int) -> None:
    leaves = [merkle.leaf_hash(data) for data in _KNOWN[:size]]
    assert merkle.root(leaves).hex() == _ROOTS[size]


@given(st.integers(0, 300))
def test_every_way_to_the_root_is_the_same(size: int) -> None:
    leaves = _leaves(size)
    growing = Growing()
    completed = {node: value for leaf in leaves for node, value in growing.add(leaf)}
    assert merkle.root(leaves) == growing.root() == _mth(leaves)
    for node, value in completed.items():
        span = 1 << node.level
        assert value == _mth(leaves[node.index * span : (node.index + 1) * span])
    assert len(completed) == size - size.bit_count()


@given(st.integers(1, 200), st.data())
def test_inclusion(size: int, data: st.DataObject) -> None:
    leaves = _leaves(size)
    index = data.draw(st.integers(0, size - 1))
    path = _path(leaves, merkle.inclusion_ranges(index, size))
    check_inclusion(leaves[index], index, size, path, _mth(leaves))
    for other in {(index + 1) % size, 0, size - 1} - {index}:
        with pytest.raises(ProofWrong):
            check_inclusion(leaves[index], other, size, path, _mth(leaves))
    for n in range(len(path)):
        wrong = [*path[:n], bytes(32), *path[n + 1 :]]
        with pytest.raises(ProofWrong):
            check_inclusion(leaves[index], index, size, wrong, _mth(leaves))
    with pytest.raises(ProofWrong):
        check_inclusion(leaves[index], index, size, [*path, bytes(32)], _mth(leaves))


@given(st.integers(0, 200), st.integers(0, 200), st.data())
def test_consistency(one: int, two: int, data: st.DataObject) -> None:
    old, size = sorted((one, two))
    leaves = _leaves(size)
    path = _path(leaves, merkle.consistency_ranges(old, size))
    before, after = _mth(leaves[:old]), _mth(leaves)
    check_consistency(old, before, size, after, path)
    # A log that rewrote one of its old events has another root, and no proof leads there.
    if old:
        changed = data.draw(st.integers(0, old - 1))
        rewritten = [*leaves[:changed], merkle.leaf_hash(b"rewritten"), *leaves[changed + 1 :]]
        forged = _path(rewritten, merkle.consistency_ranges(old, size))
        with pytest.raises(ProofWrong):
            check_consistency(old, before, size, _mth(rewritten), forged)
    for n in range(len(path)):
        wrong = [*path[:n], bytes(32), *path[n + 1 :]]
        with pytest.raises(ProofWrong):
            check_consistency(old, before, size, after, wrong)


@given(st.integers(1, 500), st.data())
def test_ranges_are_made_of_full_subtrees(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    for start, end in merkle.inclusion_ranges(index, size):
        covered = [(node.index << node.level, (node.index + 1) << node.level) for node in merkle.nodes_of((start, end))]
        assert covered[0][0] == start
        assert covered[-1][1] == end
        assert all(left[1] == right[0] for left, right in itertools.pairwise(covered))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 13, 100])
def test_levels_give_every_path(size: int) -> None:
    leaves = _leaves(size)
    tree = merkle.levels(leaves)
    assert tree[-1] == [_mth(leaves)]
    for index, leaf in enumerate(leaves):
        check_inclusion(leaf, index, size, merkle.path(tree, index), tree[-1][0])
