"""Counterfactuals change the decision when they are really asked for, and keep to what the reviewed policy allows."""

import asyncio
import json
import sys
from typing import Any

import grpc
import numpy as np
import pytest

from lineal.api.serving.v1 import serving_service_pb2 as api
from lineal.client import Client
from tests.integration.serving.credit import Bank, Rows, policy, rows, sent

pytestmark = pytest.mark.timeout(300)
# So that a decision may be changed, but not by being younger or by having lived elsewhere.
HELD = {"immutable_columns": ["age", "region"], "growing_columns": ["months"], "falling_columns": ["late"]}


@pytest.fixture
async def bank(suite: Any) -> Bank:
    await suite.start("lineage", "registry", "monitor", "serving")
    return Bank(suite)


async def search(bank: Bank, part: Rows, **fields: Any) -> api.FindCounterfactualsResponse:
    request = api.FindCounterfactualsRequest(endpoint="shop", columns=sent(part), **fields)
    found: api.FindCounterfactualsResponse = await bank.serving.FindCounterfactuals(request, timeout=120)
    return found


def changed(part: Rows, found: api.FindCounterfactualsResponse) -> Rows:
    """Return the row once for each counterfactual, with its changes."""
    made = {name: np.repeat(values, len(found.counterfactuals)) for name, values in part.items()}
    for number, each in enumerate(found.counterfactuals):
        for change in each.changes:
            made[change.column][number] = getattr(change, str(change.WhichOneof("new")))
    return made


@pytest.mark.parametrize("burden", [False, True])
async def test_each_counterfactual_changes_the_decision_and_keeps_to_the_policy(bank: Bank, burden: bool) -> None:
    bundle = await bank.open(policy(**HELD), burden=burden)
    people = rows(40, 7)
    answered = await bank.answers(people)
    decisions, columns = set(), set()
    for number, (score, decision) in enumerate(zip(answered.scores, answered.decisions, strict=True)):
        part = {name: values[number : number + 1] for name, values in people.items()}
        found = await search(bank, part)
        assert (found.bundle_digest, found.score, found.decision) == (bundle, score, decision)
        assert len(found.counterfactuals) > 0
        again = await bank.answers(changed(part, found))
        assert list(again.decisions) == [each.decision for each in found.counterfactuals]
        assert list(again.scores) == [each.score for each in found.counterfactuals]
        assert decision not in again.decisions
        for change in (change for each in found.counterfactuals for change in each.changes):
            assert change.column in {"income", "debt", "months", "late"}
            new, old = change.new_number, float(part[change.column][0])
            assert change.HasField("old_number") != np.isnan(old)
            assert np.isnan(old) or old == change.old_number
            assert {"months": new > old, "late": new < old}.get(change.column, new != old)
            assert 0 < change.distance <= 1
            columns.add(change.column)
        sets = [frozenset(change.column for change in each.changes) for each in found.counterfactuals]
        assert not any(one < other or (one == other and one is not other) for one in sets for other in sets)
        assert sets == sorted(sets, key=len)
        decisions.add(decision)
        assert found == await search(bank, part)
    assert (decisions, columns) == ({0, 1}, {"income", "debt", "months", "late"})


async def test_what_feeds_an_immutable_transform_is_left_as_it_is(bank: Bank) -> None:
    await bank.open(policy(immutable_columns=["burden"]), burden=True)
    people = rows(20, 7)
    found = [await search(bank, {name: values[n : n + 1] for name, values in people.items()}) for n in range(20)]
    columns = {change.column for each in found for one in each.counterfactuals for change in one.changes}
    assert columns
    assert not columns & {"income", "debt", "burden"}


async def test_a_transform_that_the_request_brings_is_left_as_it_is(bank: Bank) -> None:
    """It is not what debt and income make, so nobody can say what it would be with others."""
    await bank.open(policy(), burden=True)
    people = rows(20, 7) | {"burden": np.full(20, 0.9)}
    columns = set()
    for number in range(20):
        part = {name: values[number : number + 1] for name, values in people.items()}
        found = await search(bank, part)
        columns |= {change.column for one in found.counterfactuals for change in one.changes}
        if found.counterfactuals:
            again = await bank.answers(changed(part, found))
            assert found.decision not in again.decisions
    assert columns
    assert not columns & {"income", "debt", "burden"}


async def test_predictions_go_on_while_searches_run(bank: Bank) -> None:
    await bank.open(policy(**HELD))
    searches = [asyncio.create_task(search(bank, rows(1, seed), most=10)) for seed in range(40)]
    answer = await bank.answers(rows(1, 7))
    assert answer.prediction_ids
    assert not all(each.done() for each in searches)
    ended = await asyncio.gather(*searches, return_exceptions=True)
    refused = [each for each in ended if isinstance(each, grpc.aio.AioRpcError)]
    # More than may compute or wait at once.
    assert 0 < len(refused) < len(searches)
    assert {each.code() for each in refused} == {grpc.StatusCode.UNAVAILABLE}


async def test_a_recorded_decision_is_changed_from_the_command_line_and_the_client(bank: Bank) -> None:
    await bank.open(policy(**HELD), burden=True)
    part = rows(1, 7)
    prediction = (await bank.answers(part)).prediction_ids[0]
    await bank.recorded(1)
    found = await search(bank, part, most=2)

    def asked() -> Any:
        with Client(bank.suite.profile) as client:
            return client.decisions.counterfactuals(prediction, most=2), client.reasons(prediction)

    table, moved = await asyncio.to_thread(asked)
    assert set(moved) == {*part, "burden"}
    expected = [(n, c.column, c.new_number) for n, each in enumerate(found.counterfactuals, 1) for c in each.changes]
    assert list(zip(table["counterfactual"], table["column"], table["new"], strict=True)) == expected
    command = [sys.executable, "-m", "lineal.cli", "--connect", str(bank.suite.profile), "counterfactuals", prediction]
    for more, says in (((), "would have changed it"), (("--json", "--most", "2"), '"counterfactuals"')):
        process = await asyncio.create_subprocess_exec(*command, *more, stdout=asyncio.subprocess.PIPE)
        shown, _ = await process.communicate()
        assert process.returncode == 0
        assert says in shown.decode()
    assert len(json.loads(shown)["counterfactuals"]) == len(found.counterfactuals)


async def test_what_cannot_be_searched_is_refused(bank: Bank) -> None:
    await bank.open(None)
    with pytest.raises(grpc.aio.AioRpcError, match="no reviewed explanations") as caught:
        await search(bank, rows(1, 7))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    for fields, count, says in (({}, 2, "2 rows are too many"), ({"most": 11}, 1, "11 counterfactuals are too many")):
        with pytest.raises(grpc.aio.AioRpcError, match=says) as caught:
            await search(bank, rows(count, 7), **fields)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
