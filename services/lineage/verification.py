"""Reads everything that is stored and says what is not as it was. Blocking; memory does not grow with the log.

Who is wrong when two stored things disagree is settled by a third: a record and its leaf hash by the tree above them, a
node of the tree by the records below it, the tree by the checkpoints that were signed for it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from sqlalchemy.exc import SQLAlchemyError

from chassis.artifacts import ArtifactStore
from chassis.errors import LinealError
from lineal import merkle
from lineal.api.lineage.v1.record_pb2 import EventRecord
from lineal.merkle import Growing, Node
from lineal.notes import Checkpoint
from services.lineage.checkpoint_files import CheckpointFiles, CheckpointWrong
from services.lineage.named import Named
from services.lineage.store import EventStore
from services.lineage.tables import SealedRange, Stored
from services.lineage.tree import TILE_LEVELS

_PAGE = 1000
_ARTIFACTS = 50
# So many findings say enough, and a log of which nothing is left should not fill the memory.
_MOST = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was stored."""

    layer: str
    message: str


@dataclass(slots=True)
class Progress:
    """How far an examination is, and what it has found since the last one."""

    stage: str
    examined: int
    total: int
    findings: list[Finding] = field(default_factory=list)


class Verification:
    """One examination of the events up to a head, and of all that they name."""

    def __init__(
        self,
        store: EventStore,
        artifacts: ArtifactStore,
        checkpoints: CheckpointFiles,
        head: Callable[[], int],
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._checkpoints = checkpoints
        self._grown_to = head
        self._head = 0
        self._named = Named(artifacts)
        self._found: list[Finding] = []
        self._tree = Growing()
        # The tree of the leaf hashes that are stored, from the first one on that its record does not have.
        self._stored_tree: Growing | None = None
        self._unsure: list[int] = []
        self._sealed: list[SealedRange] = []
        self._damaged = False
        self._range_tree = Growing()
        # By level, the kept nodes that were read last and the index of the first.
        self._nodes: dict[int, tuple[int, list[bytes]]] = {}

    def run(self) -> Iterator[Progress]:
        """Examine page after page."""
        yield from self._log()
        yield from self._files()

    def _log(self) -> Iterator[Progress]:
        signed = self._signed()
        # After the checkpoints have been read, so that none is of a log that has grown meanwhile.
        self._head = self._grown_to()
        self._sealed = self._store.sealed.ranges()[::-1]
        while self._tree.size < self._head:
            after = self._tree.size
            try:
                rows = self._store.rows(after, min(_PAGE, self._head - after))
            except (SQLAlchemyError, ValueError) as error:
                self._find("record", f"the events after position {after} cannot be read: {_first_line(error)}")
                break
            if not rows or rows[0].position != after + 1:
                self._find("record", f"events after position {after} are missing: restore the log from a backup")
                break
            for row in rows:
                if row.position != self._tree.size + 1:
                    break  # what is missing is found by the next page, which begins with it
                self._event(row)
                while signed and signed[-1][0] == self._tree.size:
                    self._compare(*signed.pop())
            yield self._progress("log", self._tree.size, self._head)
        for size, name, _ in signed:
            if size > self._head:
                self._find("record", f"the log has {self._head} events, {name} was signed for {size}: it was cut")
        self._blame_records(self._unsure)
        yield self._progress("log", self._tree.size, self._head)

    def _event(self, row: Stored) -> None:
        stored = self._unsealed(row)
        # Without its record an event counts as what its leaf hash says; that its file is damaged has been found.
        leaf = merkle.leaf_hash(stored.record) if stored.record else stored.leaf_hash
        wrong = _column(stored) if stored.record else "record"
        if leaf != stored.leaf_hash:
            self._unsure.append(stored.position)
            self._stored_tree = self._stored_tree or self._tree.copy()
        elif wrong and stored.record:
            self._find(
                "record", f"the event at position {stored.position} was changed: its column {wrong} is not its record's"
            )
        self._sealed_leaf(stored.position, leaf)
        computed = self._tree.add(leaf, TILE_LEVELS)
        beside = self._stored_tree.add(stored.leaf_hash, TILE_LEVELS) if self._stored_tree else computed
        for (node, value), (_, other) in zip(computed, beside, strict=True):
            self._node(node, value, other)
        if leaf == stored.leaf_hash and wrong != "record":
            self._named.add(stored.position, stored.record)

    def _unsealed(self, stored: Stored) -> Stored:
        """Return a row with its record, empty when its file is damaged."""
        sealed = self._sealed[-1] if self._sealed else None
        if sealed is None or stored.position < sealed.first:
            if not stored.record:
                self._find("record", f"the event at position {stored.position} has no record: restore it from a backup")
            return stored
        if stored.position == sealed.first:
            self._open(sealed)
        if stored.record or self._damaged:
            return stored
        try:
            return stored._replace(record=self._store.sealed.record(stored.position))
        except LinealError as error:
            self._damaged = True
            self._find("sealed range", str(error))
            return stored

    def _sealed_leaf(self, position: int, leaf: bytes) -> None:
        """Add a leaf to the tree of its range, and compare the whole range with the root that it was sealed with."""
        if not self._sealed or position < self._sealed[-1].first:
            return
        self._range_tree.add(leaf)
        if position == self._sealed[-1].last:
            sealed = self._sealed.pop()
            if self._range_tree.root() != sealed.merkle_root and not self._damaged:
                self._find("sealed range", f"{_named(sealed)} do not have the root that they were sealed with")

    def _open(self, sealed: SealedRange) -> None:
        """Read the file of a range past any cache."""
        self._range_tree = Growing()
        self._damaged = False
        try:
            self._artifacts.verify(sealed.digest)
            self._store.sealed.record(sealed.first)
            self._store.sealed.record(sealed.last)
        except LinealError as error:
            self._damaged = True
            self._find("sealed range", f"{_named(sealed)} cannot be read: {error}")

    def _node(self, node: Node, value: bytes, from_stored: bytes) -> None:
        """Compare a kept node with what lies below it, by the records and by their stored leaf hashes."""
        there = self._stored_node(node)
        below = self._unsure if node.level == TILE_LEVELS else []
        if there == [value]:
            self._blame_leaves(below)
        elif there == [from_stored]:
            self._blame_records(below)
        else:
            first = (node.index << node.level) + 1
            what = "was changed" if there else "is missing"
            self._find(
                "tree",
                f"node {node.index} of level {node.level}, above the events from position {first} on, {what}: "
                "restore the log from a backup",
            )
            self._blame_records(below)

    def _stored_node(self, node: Node) -> list[bytes]:
        """Return the hash of a kept node, none when it is missing; those of a page are read at once."""
        start, hashes = self._nodes.get(node.level, (0, []))
        if not start <= node.index < start + len(hashes):
            end = min(node.index + _PAGE, self._head >> node.level)
            hashes = self._store.node_hashes(node.level, node.index, end)
            if len(hashes) < end - node.index:
                return self._store.node_hashes(node.level, node.index, node.index + 1)
            self._nodes[node.level] = (node.index, hashes)
            start = node.index
        return [hashes[node.index - start]]

    def _compare(self, size: int, name: str, found: Checkpoint) -> None:
        if found.root == self._tree.root():
            self._blame_leaves(self._unsure)
        elif self._stored_tree and found.root == self._stored_tree.root():
            self._blame_records(self._unsure)
        elif not self._stored_tree:
            self._find(
                "checkpoint",
                f"the first {size} events are not those that {name} was signed for: the database was rewritten; "
                "restore it from a backup",
            )

    def _signed(self) -> list[tuple[int, str, Checkpoint]]:
        """Return the checkpoints that can be read, the smallest last."""
        signed = []
        for name in self._checkpoints.names():
            try:
                found = self._checkpoints.read(name)
            except CheckpointWrong as error:
                self._find("checkpoint", str(error))
                continue
            signed.append((found.size, name, found))
        return sorted(signed, key=lambda each: each[0], reverse=True)

    def _blame_records(self, positions: list[int]) -> None:
        for position in positions:
            self._find(
                "record",
                f"the event at position {position} was changed: its bytes do not have its leaf hash; restore the log "
                "from a backup",
            )
        positions.clear()

    def _blame_leaves(self, positions: list[int]) -> None:
        for position in positions:
            self._find(
                "tree",
                f"the leaf hash at position {position} was changed: it is not that of its record, which the tree has",
            )
        positions.clear()

    def _files(self) -> Iterator[Progress]:
        examined = 0
        for layer, message in self._named.verified():
            examined += 1
            if message:
                self._find(layer, message)
            if examined % _ARTIFACTS == 0:
                yield self._progress("artifacts", examined, self._named.count)
        yield self._progress("artifacts", examined, examined)

    def _find(self, layer: str, message: str) -> None:
        if len(self._found) < _MOST:
            self._found.append(Finding(layer, message))

    def _progress(self, stage: str, examined: int, total: int) -> Progress:
        found, self._found = self._found, []
        return Progress(stage, examined, total, found)


def _named(sealed: SealedRange) -> str:
    return f"the sealed events {sealed.first} to {sealed.last}"


def _column(stored: Stored) -> str:
    """Return the first column that says something else than the record, empty when all agree."""
    try:
        record = EventRecord.FromString(stored.record)
    except DecodeError:
        return "record"
    recorded = record.recorded_time.seconds * 1_000_000 + record.recorded_time.nanos // 1000
    pairs = (
        ("position", stored.position, record.position),
        ("stream", stored.stream, record.stream),
        ("revision", stored.revision, record.revision),
        ("type", stored.type, record.type),
        ("event_id", stored.event_id.hex(), record.event_id.replace("-", "")),
        ("recorded_micros", stored.recorded_micros, recorded),
    )
    return next((name for name, found, expected in pairs if found != expected), "")


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:200]
