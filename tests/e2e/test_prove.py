"""Prove a prediction down to its snapshots; check the file with the public key alone; break it in a thousand ways."""

import base64
import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lineal import proof
from lineal.notes import PublicKey
from tests.e2e.conftest import Running

pytestmark = pytest.mark.timeout(240)
_BROKEN = 300


@pytest.fixture(scope="module")
def key(suite: Running) -> str:
    found: str = json.loads(suite.lineal("keys", "--json"))["keys"][0]
    return found


@pytest.fixture(scope="module")
def proven(suite: Running, notebook: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("proof") / "proof.json"
    prediction = notebook["answers"]["prediction_id"].iloc[-1]
    suite.lineal("prove", prediction, "-o", str(path))
    return path


def test_a_prediction_is_proven_to_its_snapshots(
    suite: Running, notebook: dict[str, Any], proven: Path, key: str
) -> None:
    shown = json.loads(suite.lineal("verify", str(proven), "--key", key, "--json"))
    last = notebook["answers"].iloc[-1]
    assert shown["prediction"]["prediction_id"] == last["prediction_id"]
    assert shown["prediction"]["score"] == last["score"]
    bundle, training_set, *snapshots = shown["manifests"]
    assert bundle["model"] == notebook["saga"].endpoint
    assert sorted(training_set["snapshots"]) == sorted(snapshot["dataset"] for snapshot in snapshots)
    assert "holds" in suite.lineal("verify", str(proven), "--key", key)


def test_an_event_is_proven(suite: Running, key: str, tmp_path: Path) -> None:
    suite.lineal("prove", "--event", "3", "-o", str(tmp_path / "event.json"))
    shown = json.loads(suite.lineal("verify", str(tmp_path / "event.json"), "--key", key, "--json"))
    assert shown["event"]["position"] == "3"


def test_the_whole_log_is_checked(suite: Running, notebook: dict[str, Any], key: str) -> None:
    assert json.loads(suite.lineal("verify", "--key", key, "--json"))["size"] > 10


def test_the_key_of_another_log_proves_nothing(suite: Running, proven: Path) -> None:
    other = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
    assert "checkpoint: none of the trusted keys" in suite.lineal("verify", str(proven), "--key", other, code=1)
    assert "--key:" in suite.lineal("verify", str(proven), "--key", "lineal+1+2", code=1)


def test_who_trusts_an_earlier_key_trusts_the_next(suite: Running, notebook: dict[str, Any], key: str) -> None:
    suite.lineal("keys", "--rotate")
    assert json.loads(suite.lineal("keys", "--json"))["keys"][0] == key
    made = proof.of_event(suite.client().services, 1)
    assert proof.check(made, PublicKey.parse(key)).event.position == 1
    made["rotations"] = []
    with pytest.raises(proof.ProofInvalid, match="checkpoint"):
        proof.check(made, PublicKey.parse(key))


def test_whatever_is_changed_is_found_and_the_layer_is_named(proven: Path, key: str) -> None:
    whole = json.loads(proven.read_text(encoding="utf-8"))
    trusted = PublicKey.parse(key)
    assert proof.check(whole, trusted).prediction is not None
    generator = random.Random(20_130_701)
    places = list(_places(whole))
    layers = set()
    for _ in range(_BROKEN):
        broken = copy.deepcopy(whole)
        _break(broken, generator.choice(places), generator)
        with pytest.raises(proof.ProofInvalid) as caught:
            proof.check(broken, trusted)
        layers.add(caught.value.layer)
    assert layers == {"file", "checkpoint", "log", "prediction", "manifest"}


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _places(inner, (*path, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _places(inner, (*path, number))
    else:
        yield path


def _break(whole: Any, path: tuple[Any, ...], generator: random.Random) -> None:
    """Flip one bit of one value."""
    holder = whole
    for step in path[:-1]:
        holder = holder[step]
    value = holder[path[-1]]
    if isinstance(value, int):
        holder[path[-1]] = value ^ (1 << generator.randrange(8))
    elif path[0] in ("format", "checkpoint"):
        place = generator.randrange(len(value))
        holder[path[-1]] = value[:place] + chr(ord(value[place]) ^ 1) + value[place + 1 :]
    else:
        data = bytearray(base64.b64decode(value))
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        holder[path[-1]] = base64.b64encode(data).decode()
