"""Merkle trees as RFC 6962 has them: SHA-256, leaves and nodes told apart by their first byte.

A proof lists the hashes of the subtrees that are left out on the way up, the lowest first. Whoever checks one needs
nothing but this module.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256().digest()
# Copied for each hash, which takes two thirds of the time of a new one.
_LEAF, _NODE = hashlib.sha256(b"\x00"), hashlib.sha256(b"\x01")


class ProofWrong(ValueError):
    """A proof does not lead to the root."""


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf: SHA-256 of 0x00 and the data."""
    hashing = _LEAF.copy()
    hashing.update(data)
    return hashing.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node: SHA-256 of 0x01 and its children's hashes."""
    hashing = _NODE.copy()
    hashing.update(left + right)
    return hashing.digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes in order; over none the SHA-256 of nothing (RFC 6962, section 2.1).

    The largest power of two below the count goes left, so the tree is built level by level: pairs are joined, and an
    odd last one moves up as it is.
    """
    return levels(leaves)[-1][0] if leaves else EMPTY_ROOT


def levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """Return the hashes of a tree level by level, the leaves first and the root last; at least one leaf."""
    found = [list(leaves)]
    while len(found[-1]) > 1:
        level = found[-1]
        pairs = [node_hash(level[n], level[n + 1]) for n in range(0, len(level) - 1, 2)]
        found.append(pairs + level[len(level) - len(level) % 2 :])
    return found


def path(tree: Sequence[Sequence[bytes]], index: int) -> list[bytes]:
    """Return the hashes that prove a leaf to be in a tree given by its levels, the lowest first."""
    found = []
    for level in tree[:-1]:
        if index ^ 1 < len(level):
            found.append(level[index ^ 1])
        index >>= 1
    return found


@dataclass(frozen=True, order=True)
class Node:
    """A full subtree: the one at `index` among those over 2 ** `level` leaves."""

    level: int
    index: int


def peaks(size: int) -> list[Node]:
    """Return the full subtrees that a tree of so many leaves consists of, the largest first."""
    found = []
    start = 0
    while start < size:
        level = (size - start).bit_length() - 1
        found.append(Node(level, start >> level))
        start += 1 << level
    return found


def root_of_peaks(hashes: Sequence[bytes]) -> bytes:
    """Return the root over the hashes of a tree's peaks."""
    if not hashes:
        return EMPTY_ROOT
    whole = hashes[-1]
    for peak in reversed(hashes[:-1]):
        whole = node_hash(peak, whole)
    return whole


@dataclass
class Growing:
    """A tree that leaves are added to: knows its peaks, in the order of `peaks`."""

    size: int = 0
    hashes: list[bytes] = field(default_factory=list)

    def add(self, leaf: bytes, every: int = 1) -> list[tuple[Node, bytes]]:
        """Add a leaf hash; return the full subtrees above it that it completes, those of every so many levels."""
        completed = []
        node, above = leaf, self.size
        level = 0
        while above & 1:
            node = node_hash(self.hashes.pop(), node)
            above >>= 1
            level += 1
            if level % every == 0:
                completed.append((Node(level, above), node))
        self.hashes.append(node)
        self.size += 1
        return completed

    def copy(self) -> "Growing":
        """Return a tree that grows on its own."""
        return Growing(self.size, list(self.hashes))

    def root(self) -> bytes:
        """Return the root."""
        return root_of_peaks(self.hashes)


# A subtree as a range of leaves, [start, end); full ones are nodes.
Range = tuple[int, int]


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """Return the subtrees whose hashes prove that a leaf is in a tree of `size` leaves (RFC 6962, section 2.1.1)."""
    start, end = 0, size
    found: list[Range] = []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((start, middle))
            start = middle
    return found[::-1]


def consistency_ranges(old: int, size: int) -> list[Range]:
    """Return the subtrees that prove a tree of `old` leaves to be the beginning of one of `size` (section 2.1.2).

    Nothing is to be proven when `old` is 0 or `size`.
    """
    if old in (0, size):
        return []
    start, end, whole = 0, size, True
    found: list[Range] = []
    while old < end:
        middle = start + _split(end - start)
        if old <= middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((start, middle))
            start, whole = middle, False
    # The old tree itself is known to whoever checks; only a part of it has to be told.
    return ([] if whole else [(start, end)]) + found[::-1]


def nodes_of(part: Range) -> list[Node]:
    """Return the full subtrees that a range of leaves consists of; it is one of the ranges above."""
    start, end = part
    return [Node(peak.level, peak.index + (start >> peak.level)) for peak in peaks(end - start)]


def root_from_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """Return the root that a proof leads to from a leaf hash.

    Raises ProofWrong when the proof's length is not that of such a leaf.
    """
    if not 0 <= index < size:
        raise ProofWrong(f"leaf {index} is not in a tree of {size} leaves")
    ranges = inclusion_ranges(index, size)
    _check_hashes(path, len(ranges))
    found = leaf
    for (start, _), other in zip(ranges, path, strict=True):
        found = node_hash(found, other) if start > index else node_hash(other, found)
    return found


def check_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], expected: bytes) -> None:
    """Raise ProofWrong unless a leaf hash is at `index` in the tree of `size` leaves with the expected root."""
    if root_from_inclusion(leaf, index, size, path) != expected:
        raise ProofWrong(f"leaf {index} does not lead to the root of the tree of {size} leaves")


def check_consistency(old: int, old_root: bytes, size: int, new_root: bytes, path: Sequence[bytes]) -> None:
    """Raise ProofWrong unless the tree of `old` leaves is the beginning of the one of `size` leaves."""
    if not 0 <= old <= size:
        raise ProofWrong(f"a tree of {old} leaves cannot be the beginning of one of {size}")
    ranges = consistency_ranges(old, size)
    _check_hashes(path, len(ranges))
    if old == 0:
        before, after = EMPTY_ROOT, new_root
    elif old == size:
        before, after = old_root, old_root
    else:
        before, after = _both_roots(old, old_root, ranges, path)
    if before != old_root or after != new_root:
        raise ProofWrong(f"the tree of {old} leaves is not the beginning of the one of {size}")


def _both_roots(old: int, old_root: bytes, ranges: Iterable[Range], path: Sequence[bytes]) -> tuple[bytes, bytes]:
    steps = list(zip(ranges, path, strict=True))
    first_start, first_end = steps[0][0]
    if first_end == old:
        before = after = steps.pop(0)[1]
        start = first_start
    else:
        before, after, start = old_root, old_root, 0
    for (left, _), other in steps:
        if left < start:
            before, after, start = node_hash(other, before), node_hash(other, after), left
        else:
            after = node_hash(after, other)
    return before, after


def _split(size: int) -> int:
    """Return the greatest power of two below a size."""
    return 1 << (size - 1).bit_length() - 1


def _check_hashes(path: Sequence[bytes], expected: int) -> None:
    if len(path) != expected or any(len(one) != HASH_BYTES for one in path):
        raise ProofWrong(f"the proof must have {expected} hashes of {HASH_BYTES} bytes")
