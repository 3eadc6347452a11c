"""More bundles than may be held in memory: each is loaded again when it is asked, and scores as before."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from lineal.api.inference.v2 import inference_service_pb2 as oip
from lineal.api.inference.v2.inference_service_pb2_grpc import GRPCInferenceServiceStub
from lineal.api.registry.v1.endpoint_pb2 import Arm, ArmRole
from lineal.api.serving.v1 import serving_service_pb2 as serving_api
from tabular.bundle import MODEL_FILE, Bundle
from tabular.columns import from_numpy
from tests.integration.exposition import scrape
from tests.integration.serving.shop import Shop, opened
from tests.integration.test_predictions import champion, fitted, rid

pytestmark = pytest.mark.timeout(300)
SEEDS = (1, 2, 3, 4)
ROWS = 20
CLIENTS = 4
TURNS = 20


def request(key: str) -> serving_api.PredictRequest:
    columns = [
        from_numpy("amount", np.linspace(-2, 2, ROWS)),
        from_numpy("shop", np.array(["a"] * ROWS, dtype=object)),
    ]
    return serving_api.PredictRequest(endpoint="shop", request_id=rid(), routing_key=key, columns=columns)


async def contested(suite: Any) -> tuple[Shop, dict[str, int]]:
    """Return a shop with four bundles that answer, of which one may be in memory, and the bundles by digest."""
    shop = await opened(suite, loaded_bundles=1, metrics_port=0)
    seeds = {await shop.bundle(seed): seed for seed in SEEDS}
    first, *others = seeds
    challengers = [Arm(bundle_digest=each, role=ArmRole.ARM_ROLE_CHALLENGER, share=0.25) for each in others]
    await shop.arms(champion(first), *challengers)
    return shop, seeds


async def test_bundles_that_made_room_are_loaded_again_and_score_as_before(suite: Any) -> None:
    shop, seeds = await contested(suite)
    rows = [[amount, "a"] for amount in np.linspace(-2, 2, ROWS)]
    expected = {digest: fitted(seed).predict_proba(rows)[:, 1] for digest, seed in seeds.items()}

    async def client(number: int) -> list[Any]:
        return [await shop.serving.Predict(request(f"{number}-{turn}")) for turn in range(TURNS)]

    told = await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    answers = [answer for each in told for answer in each]
    assert {answer.bundle_digest for answer in answers} == seeds.keys()
    for answer in answers:
        np.testing.assert_allclose(answer.scores, expected[answer.bundle_digest], rtol=0, atol=1e-12)
    page = await asyncio.to_thread(scrape, suite.servers["serving"].metrics_address)
    assert page.value("lineal_serving_bundles") == 1
    assert page.value("lineal_serving_bundle_loads_total") > len(SEEDS)


async def test_the_champion_answers_for_a_challenger_that_cannot_be_loaded_again(suite: Any) -> None:
    shop, (first, damaged, *_) = await contested(suite)
    key = ""
    for number in range(1_000):
        if (await shop.serving.Predict(request(str(number)))).bundle_digest == damaged:
            key = str(number)
            break
    assert key
    path = suite.artifacts.path(Bundle.from_bytes(suite.artifacts.read(damaged)).files[MODEL_FILE])
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])
    async with asyncio.timeout(120):
        # Each answer is scored by the other arms, too, so that the damaged one makes room by and by.
        while (answer := await shop.serving.Predict(request(key))).arm != "champion":
            pass
    assert answer.bundle_digest == first
    async with grpc.aio.insecure_channel(suite.address("serving")) as channel:
        named = oip.ModelInferRequest(model_name="shop", model_version=damaged)
        named.inputs.add(name="amount", datatype="FP64", shape=[1]).contents.fp64_contents.append(0.5)
        named.inputs.add(name="shop", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"a")
        with pytest.raises(grpc.aio.AioRpcError, match=f"bundle {damaged[:12]} cannot be loaded: {MODEL_FILE}") as told:
            await GRPCInferenceServiceStub(channel).ModelInfer(named)
    assert told.value.code() == grpc.StatusCode.FAILED_PRECONDITION
