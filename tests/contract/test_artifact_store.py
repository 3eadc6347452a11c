"""What every artifact store keeps to."""

import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from chassis.artifacts import (
    ArtifactStore,
    FsspecArtifactStore,
    LocalArtifactStore,
    artifact_store,
)
from chassis.errors import ArtifactCorrupt, InvalidArgument, NotFound, RuleViolated
from chassis.memory_artifacts import InMemoryArtifactStore

ABSENT = "0" * 64


@pytest.fixture(params=["memory", "local", "fsspec memory", "fsspec file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    match request.param:
        case "memory":
            return InMemoryArtifactStore()
        case "local":
            return LocalArtifactStore(tmp_path / "artifacts")
        case "fsspec memory":
            return FsspecArtifactStore(f"memory://{tmp_path.name}", tmp_path / "cache")
        case _:
            return FsspecArtifactStore(f"file://{tmp_path}/remote", tmp_path / "cache")


def test_the_name_is_the_digest_of_the_bytes(store: ArtifactStore) -> None:
    digest = store.put(b"rows")
    assert digest == hashlib.sha256(b"rows").hexdigest()
    assert store.exists(digest)
    assert store.read(digest) == b"rows"
    assert store.path(digest).read_bytes() == b"rows"
    with store.open(digest) as file:
        assert file.read(2) == b"ro"


@pytest.mark.parametrize("data", [b"", b"\x00" * 3_000_000])
def test_bytes_of_any_size_are_kept(store: ArtifactStore, data: bytes) -> None:
    assert store.read(store.put(data)) == data


def test_a_file_is_stored_like_its_bytes(store: ArtifactStore, tmp_path: Path) -> None:
    file = tmp_path / "model.cbm"
    file.write_bytes(b"model")
    assert store.put_file(file) == store.put(b"model")


def test_storing_again_changes_nothing(store: ArtifactStore) -> None:
    assert store.put(b"x") == store.put(b"x")
    assert store.read(store.put(b"x")) == b"x"


def test_an_absent_artifact_is_not_found(store: ArtifactStore) -> None:
    assert not store.exists(ABSENT)
    for read in (store.read, store.path, store.open, store.verify):
        with pytest.raises(NotFound):
            read(ABSENT)


def test_a_store_tells_how_many_bytes_it_has_verified(store: ArtifactStore) -> None:
    assert [store.verify(store.put(data)) for data in (b"", b"rows")] == [0, 4]


def test_verifying_looks_past_what_was_verified_before(tmp_path: Path) -> None:
    for folder, store in (
        (tmp_path / "a", LocalArtifactStore(tmp_path / "a")),
        (tmp_path / "b", FsspecArtifactStore(f"file://{tmp_path}/b", tmp_path / "cache")),
    ):
        digest = store.put(b"model")
        file = store.path(digest)
        times = file.stat()
        (stored,) = folder.rglob(digest)
        stored.chmod(0o600)
        stored.write_bytes(b"modem")
        os.utime(stored, ns=(times.st_atime_ns, times.st_mtime_ns))
        with pytest.raises(ArtifactCorrupt):
            store.verify(digest)


@pytest.mark.parametrize("name", ["", "abc", "../../../etc/passwd", "A" * 64, "g" * 64, f"{ABSENT}\n"])
def test_a_name_that_is_no_digest_is_refused(store: ArtifactStore, name: str) -> None:
    for call in (store.read, store.path, store.open, store.exists):
        with pytest.raises(InvalidArgument):
            call(name)


@pytest.fixture(params=["memory", "local"])
def collected(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    return InMemoryArtifactStore() if request.param == "memory" else LocalArtifactStore(tmp_path / "artifacts")


def test_a_store_lists_what_it_has(collected: ArtifactStore) -> None:
    began = datetime.now(UTC) - timedelta(seconds=1)
    assert list(collected.listed()) == []
    sizes = {collected.put(data): len(data) for data in (b"", b"rows")}
    listed = list(collected.listed())
    assert {each.digest: each.size for each in listed} == sizes
    assert all(began <= each.time <= datetime.now(UTC) for each in listed)


def test_only_what_is_old_enough_is_removed(collected: ArtifactStore) -> None:
    digest, other = collected.put(b"rows"), collected.put(b"other rows")
    assert not collected.remove(digest, datetime.now(UTC) - timedelta(hours=1))
    assert collected.read(digest) == b"rows"
    assert collected.remove(digest, datetime.now(UTC) + timedelta(hours=1))
    assert not collected.exists(digest)
    assert not collected.remove(digest, datetime.now(UTC) + timedelta(hours=1))
    assert [each.digest for each in collected.listed()] == [other]
    assert collected.read(collected.put(b"rows")) == b"rows"


def test_touching_tells_what_is_there(store: ArtifactStore) -> None:
    assert store.touch(store.put(b"rows"))
    assert not store.touch(ABSENT)


def test_putting_again_and_touching_make_an_artifact_young(tmp_path: Path) -> None:
    store = LocalArtifactStore(tmp_path)
    digest = store.put(b"rows")
    for refresh in (lambda: store.put(b"rows"), lambda: store.touch(digest)):
        os.utime(store.path(digest), (0, 0))
        refresh()
        assert not store.remove(digest, datetime.now(UTC) - timedelta(hours=1))


def test_an_object_store_is_not_collected(tmp_path: Path) -> None:
    store = FsspecArtifactStore(f"file://{tmp_path}/remote", tmp_path / "cache")
    digest = store.put(b"rows")
    with pytest.raises(RuleViolated, match="object store"):
        store.listed()
    with pytest.raises(RuleViolated, match="object store"):
        store.remove(digest, datetime.now(UTC))
    with pytest.raises(RuleViolated, match="object store"):
        store.leftovers(datetime.now(UTC), delete=True)
    assert store.exists(digest)


def damage(folder: Path, digest: str) -> None:
    [file] = [path for path in folder.rglob(digest) if path.is_file()]
    file.write_bytes(b"other bytes of another length")


def test_damaged_bytes_are_never_handed_out_from_a_folder(tmp_path: Path) -> None:
    store = LocalArtifactStore(tmp_path)
    digest = store.put(b"model")
    assert store.path(digest).is_file()
    damage(tmp_path, digest)
    for read in (store.read, store.path, store.open):
        with pytest.raises(ArtifactCorrupt):
            read(digest)


def test_damaged_bytes_are_never_handed_out_from_an_object_store(tmp_path: Path) -> None:
    store = FsspecArtifactStore(f"file://{tmp_path}/remote", tmp_path / "cache")
    digest = store.put(b"model")
    damage(tmp_path / "remote", digest)
    with pytest.raises(ArtifactCorrupt):
        store.read(digest)


def test_storing_again_repairs_what_was_damaged(tmp_path: Path) -> None:
    for folder, store in (
        (tmp_path / "a", LocalArtifactStore(tmp_path / "a")),
        (tmp_path / "b", FsspecArtifactStore(f"file://{tmp_path}/b", tmp_path / "cache")),
    ):
        digest = store.put(b"model")
        damage(folder, digest)
        store.put(b"model")
        assert store.read(digest) == b"model"


def test_what_a_crash_leaves_behind_is_removed_when_it_is_old(tmp_path: Path) -> None:
    store = LocalArtifactStore(tmp_path)
    digest = store.put(b"model")
    orphan = tmp_path / digest[:2] / ".put-cut-short"
    orphan.write_bytes(b"mod")
    build = tmp_path / "builds" / "b1" / "view"
    build.mkdir(parents=True)
    (build / "0.parquet").write_bytes(b"rows")
    for path in (build.parent, build, orphan):
        os.utime(path, (0, 0))
    now = datetime.now(UTC)
    # A file of the build is young.
    (found,) = store.leftovers(now - timedelta(hours=1), delete=False)
    assert (found.name, found.size, found.time.year) == (f"{digest[:2]}/.put-cut-short", 3, 1970)
    assert orphan.exists()
    later = now + timedelta(hours=1)
    sizes = {each.name: each.size for each in store.leftovers(later, delete=True)}
    assert sizes == {found.name: 3, "builds/b1": 4}
    assert list(store.leftovers(later, delete=True)) == []
    assert [each.digest for each in store.listed()] == [digest]
    assert store.read(digest) == b"model"


def test_the_store_is_chosen_by_its_root(tmp_path: Path) -> None:
    assert isinstance(artifact_store(str(tmp_path), tmp_path / "c"), LocalArtifactStore)
    assert isinstance(artifact_store("memory://x", tmp_path / "c"), FsspecArtifactStore)
