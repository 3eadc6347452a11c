"""Back up a suite while it runs, restore it elsewhere, and prove there what was proven here."""

import asyncio
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from lineal import backup, merkle, proof
from lineal.api.lineage.v1 import proof_service_pb2 as proofs
from lineal.api.lineage.v1.projection_service_pb2 import VerifyProjectionsRequest
from lineal.api.lineage.v1.projection_service_pb2_grpc import ProjectionServiceStub
from lineal.api.lineage.v1.proof_service_pb2_grpc import ProofServiceStub
from lineal.backup_files import BackupDamaged, Manifest
from lineal.calls import Services
from lineal.cli import backups
from lineal.errors import LinealError
from lineal.notes import Checkpoint, PublicKey, verified
from lineal.places import FolderPlace, place_at
from lineal.profile import Profile
from services.lineage.restoring import KeysOfAnother, restore
from services.lineage.settings import Settings
from tests.integration.lineage.test_failover import became
from tests.integration.lineage.test_log_commands import lineal
from tests.integration.lineage.test_mutations import grown, told
from tests.integration.lineage.test_sealing import findings, seal
from tests.integration.running import Suite, running
from tests.integration.test_predictions import World


class CutOff(FolderPlace):
    """A place that is away after so many files."""

    def __init__(self, root: Path, files: int) -> None:
        super().__init__(root)
        self._left = files

    def write(self, name: str, source: Path) -> None:
        self._left -= 1
        if self._left < 0:
            raise ConnectionResetError("the place is away")
        super().write(name, source)


async def backed_up(suite: Suite, place: Any) -> backup.BackedUp:
    with Services(Profile.load(suite.profile)) as services:
        return await asyncio.to_thread(backup.run, services, place, lambda *_: None)


async def checkpoint(suite: Suite, size: int = 0) -> str:
    async with grpc.aio.insecure_channel(suite.address("lineage")) as channel:
        stub: Any = ProofServiceStub(channel)
        return str((await stub.GetCheckpoint(proofs.GetCheckpointRequest(size=size))).checkpoint)


async def proven(suite: Suite, prediction: str) -> dict[str, Any]:
    with Services(Profile.load(suite.profile)) as services:
        return await asyncio.to_thread(proof.of_prediction, services, prediction)


async def key_of(suite: Suite) -> PublicKey:
    async with grpc.aio.insecure_channel(suite.address("lineage")) as channel:
        stub: Any = ProofServiceStub(channel)
        return PublicKey.parse((await stub.ListKeys(proofs.ListKeysRequest())).keys[0])


async def restored(where: Path, data: Path, **options: Any) -> None:
    await asyncio.to_thread(backups.restore, str(where), data, **{"keys": None, "key": "", **options})


async def restored_here(where: Path, data: Path, key: PublicKey | None = None, keys: Path | None = None) -> None:
    """Restore as the command does, without a process of its own."""
    await asyncio.to_thread(restore, Settings(data_dir=data), place_at(str(where)), key, keys)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_suite_is_backed_up_and_restored_to_a_new_place(suite: Suite, tmp_path_factory: Any) -> None:
    where, data = tmp_path_factory.mktemp("backup"), tmp_path_factory.mktemp("restored") / "data"
    prediction = await told(suite)
    async with grpc.aio.insecure_channel(suite.address("lineage")) as channel:
        await seal(channel, position=200)
    key, before, made = await key_of(suite), await checkpoint(suite), await proven(suite, prediction)
    # Cut off after each file, the next run goes on where the last one was.
    for files in (1, 2, 1, 2, 1):
        with pytest.raises(ConnectionResetError):
            await backed_up(suite, CutOff(where, files))
    first = await backed_up(suite, place_at(str(where)))
    assert first.checkpoint == Checkpoint.parse(verified(before, [key]))
    assert (first.events, first.copied < first.artifacts) == (0, True)
    await grown(suite)
    shown = json.loads(await lineal(suite, "backup", str(where), "--json"))
    assert (shown["events"], shown["copied"], shown["artifacts"]) == (600, 0, first.artifacts)
    after = await checkpoint(suite)

    chance = random.Random(3)
    names = [path.relative_to(where).as_posix() for path in sorted(where.rglob("*")) if path.is_file()]
    for name in [*chance.sample([n for n in names if n.startswith("artifacts/")], 3), *names[-3:], "artifacts.txt"]:
        whole = (where / name).read_bytes()
        place = chance.randrange(len(whole))
        (where / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(BackupDamaged, match=re.escape(name)):
            await restored_here(where, data)
        (where / name).unlink()
        with pytest.raises(BackupDamaged, match=re.escape(name)):
            await restored_here(where, data)
        (where / name).write_bytes(whole)

    keys = suite.folder / "lineage" / "keys"
    await restored(where, data, keys=keys, key=str(key))
    with pytest.raises(LinealError, match="restore to an empty place"):
        await restored(where, data)
    async with running(data) as new:
        await new.start("lineage", "trainer", "registry", "features", "monitor", "serving")
        for server in new.servers.values():
            await became(int(server.address.rpartition(":")[2]), "SERVING")
        assert await checkpoint(new, shown["size"]) == after
        assert await checkpoint(new, first.checkpoint.size) == before
        assert await key_of(new) == key
        for each in (made, await proven(new, prediction)):
            found = proof.check(each, key).prediction
            assert found is not None
            assert found.prediction_id == prediction
        async with grpc.aio.insecure_channel(new.address("lineage")) as channel:
            assert await findings(channel) == []
        for name in ("lineage", "trainer", "registry", "features", "monitor"):
            async with grpc.aio.insecure_channel(new.address(name)) as channel:
                tables = await ProjectionServiceStub(channel).VerifyProjections(VerifyProjectionsRequest())
                assert all(each.live_digest == each.rebuilt_digest for each in tables.verifications), name
        assert len((await World(new).predict(rows=2)).scores) == 2


async def test_a_backup_is_restored_to_postgres_without_the_keys(
    suite: Suite, tmp_path_factory: Any, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, data = tmp_path_factory.mktemp("backup"), tmp_path_factory.mktemp("restored")
    await suite.start("lineage")
    await grown(suite)
    key = await key_of(suite)
    done = await backed_up(suite, place_at(f"file://{where}"))
    monkeypatch.setenv("LINEAL_LINEAGE_DATABASE_URL", postgres_url)
    await restored(where, data)
    async with running(data) as new:
        await new.start("lineage", database_url=postgres_url)
        assert await key_of(new) != key
        text = (await checkpoint(new)).split("\n\n")[0] + "\n"
        assert (Checkpoint.parse(text).size, Checkpoint.parse(text).root) == (
            done.checkpoint.size,
            done.checkpoint.root,
        )
        async with grpc.aio.insecure_channel(new.address("lineage")) as channel:
            assert await findings(channel) == []


async def test_what_is_no_backup_of_this_log_is_refused(suite: Suite, tmp_path_factory: Any) -> None:
    where, data = tmp_path_factory.mktemp("backup"), tmp_path_factory.mktemp("other")
    await suite.start("lineage")
    await grown(suite)
    await backed_up(suite, place_at(str(where)))
    manifest = Manifest.load(place_at(str(where)))
    assert manifest is not None
    async with running(data) as other:
        await other.start("lineage")
        with pytest.raises(LinealError, match="has a backup of the log"):
            await backed_up(other, place_at(str(where)))
        with pytest.raises(BackupDamaged, match="its checkpoint"):
            await restored_here(where, data / "new", key=await key_of(other))
        with pytest.raises(KeysOfAnother, match="does not hold the keys"):
            await restored_here(where, data / "new", keys=data / "lineage" / "keys")
    # Whoever changes a record and all that the backup says of it still has no signature.
    manifest.peaks[0] = merkle.EMPTY_ROOT.hex()
    manifest.checkpoint = manifest.checkpoint.replace("\n600\n", "\n601\n")
    manifest.save(place_at(str(where)))
    with pytest.raises(BackupDamaged, match=r"backup\.json: its checkpoint was changed"):
        await restored_here(where, data / "new")
    shutil.rmtree(where)
    with pytest.raises(BackupDamaged, match="this is no backup"):
        await restored_here(where, data / "new")
