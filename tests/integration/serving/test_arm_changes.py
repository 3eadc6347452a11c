"""Arms change under load: no request fails, and each answer is its routed bundle's, in its generation.

`LINEAL_TEST_ARM_CHANGES=1000 python -m pytest` on this file asks for more changes.
"""

import asyncio
import hashlib
import os
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from lineal.api.registry.v1.endpoint_pb2 import Arm, ArmRole
from lineal.api.serving.v1 import serving_service_pb2 as serving_api
from tabular.columns import from_numpy
from tests.integration.serving.shop import Shop, opened
from tests.integration.test_predictions import champion, fitted, rid

pytestmark = pytest.mark.timeout(1800)
CHANGES = int(os.environ.get("LINEAL_TEST_ARM_CHANGES", "25"))
CLIENTS = 4
KEYS = 60
SEEDS = (1, 2, 3)


def releases(bundles: Sequence[str], chance: random.Random) -> Iterator[list[Arm]]:
    """Yield arms without end: challengers are shadows first, their shares grow, shrink or go straight up, one wins."""
    best = bundles[0]
    while True:
        others = chance.sample([each for each in bundles if each != best], chance.choice((1, 2)))
        yield [champion(best), *(Arm(bundle_digest=each, role=ArmRole.ARM_ROLE_SHADOW) for each in others)]
        # Together below 1, whatever the steps.
        steps = sorted(chance.uniform(0.01, 0.49) for _ in range(chance.randint(3, 6)))
        if chance.random() < 0.3:
            steps += steps[-2::-1]
        part = chance.uniform(0.3, 1)
        for share in steps:
            challengers = zip(others, (share, share * part), strict=False)
            yield [
                champion(best),
                *(Arm(bundle_digest=d, role=ArmRole.ARM_ROLE_CHALLENGER, share=s) for d, s in challengers),
            ]
        best = chance.choice([best, others[0]])
        yield [champion(best)]


def shares(arms: Sequence[Arm]) -> dict[str, float]:
    """Return the share of keys that each arm answers, by bundle."""
    found = {arm.bundle_digest: arm.share for arm in arms if arm.role == ArmRole.ARM_ROLE_CHALLENGER}
    (best,) = (arm.bundle_digest for arm in arms if arm.role == ArmRole.ARM_ROLE_CHAMPION)
    return {best: 1 - sum(found.values()), **found}


def routed(arms: Sequence[Arm], key: str) -> str:
    """Return the bundle for a key, computed from what is published: the first 8 bytes of SHA-256 over salt and key."""
    found = shares(arms)
    best, *challengers = found
    challengers.sort()
    salt = "\0".join(["shop", *challengers])
    place = int.from_bytes(hashlib.sha256(f"{salt}\0{key}".encode()).digest()[:8], "big") / 2**64
    if challengers and place < found[challengers[0]]:
        return challengers[0]
    return challengers[1] if len(challengers) > 1 and place >= 1 - found[challengers[1]] else best


@dataclass(frozen=True)
class Seen:
    """What a client asked and was told; `applied` is the generation known to be applied when it asked."""

    key: str
    row: int
    applied: int
    answer: Any


@dataclass
class Load:
    """Clients that ask without a pause, and without a retry that could hide a failure."""

    world: Shop
    amounts: Any
    applied: int = 0
    seen: list[Seen] = field(default_factory=list)
    stopped: bool = False
    newer: asyncio.Event = field(default_factory=asyncio.Event)

    async def client(self, chance: random.Random) -> None:
        while not self.stopped:
            key, row, applied = f"key {chance.randrange(KEYS)}", chance.randrange(len(self.amounts)), self.applied
            columns = [
                from_numpy("amount", self.amounts[row : row + 1]),
                from_numpy("shop", np.array(["a"], dtype=object)),
            ]
            request = serving_api.PredictRequest(endpoint="shop", request_id=rid(), routing_key=key, columns=columns)
            self.seen.append(Seen(key, row, applied, await self.world.serving.Predict(request)))
            self.newer.set()

    async def answered(self, generation: int) -> None:
        """Return when some client has an answer of a generation, which is applied."""
        self.applied = generation
        while not self.seen or self.seen[-1].answer.generation < generation:
            self.newer.clear()
            await self.newer.wait()


async def test_arms_change_under_load_and_every_answer_is_the_routed_bundles(suite: Any) -> None:
    world = await opened(suite, strict=True)
    digests = {await world.bundle(seed): seed for seed in SEEDS}
    load = Load(world, np.random.default_rng(5).normal(size=200))
    rows = [[amount, "a"] for amount in load.amounts]
    scores = {digest: fitted(seed).predict_proba(rows)[:, 1] for digest, seed in digests.items()}
    story = releases(list(digests), random.Random(7))
    published = {await world.arms(*(first := next(story))): first}
    load.applied = max(published)
    clients = [asyncio.create_task(load.client(random.Random(number))) for number in range(CLIENTS)]
    try:
        for _ in range(CHANGES):
            arms = next(story)
            generation = await world.arms(*arms)
            published[generation] = arms
            await asyncio.wait_for(load.answered(generation), 60)
    finally:
        load.stopped = True
        failures = [found for found in await asyncio.gather(*clients, return_exceptions=True) if found]
    assert failures == []
    for each in load.seen:
        answer = each.answer
        assert answer.generation >= each.applied
        assert answer.bundle_digest == routed(published[answer.generation], each.key)
        assert answer.scores[0] == pytest.approx(scores[answer.bundle_digest][each.row], abs=1e-12)
    assert moved(published, load.seen) == 0
    assert {each.answer.bundle_digest for each in load.seen} == digests.keys()
    counters = (await world.serving.GetCounters(serving_api.GetCountersRequest())).endpoints[0]
    assert (counters.served, counters.dropped, counters.failed_requests) == (len(load.seen), 0, 0)
    assert (await world.recorded(len(load.seen))).recorded == len(load.seen)


def moved(published: dict[int, list[Arm]], seen: Sequence[Seen]) -> int:
    """Count keys that left an arm although its share only grew and the arms were the same ones."""
    by_key = defaultdict(list)
    for each in seen:
        by_key[each.key].append((each.answer.generation, each.answer.bundle_digest))
    count = checked = 0
    for answers in by_key.values():
        for (before, was), (after, now) in pairwise(sorted(answers)):
            between = [shares(published[number]) for number in range(before, after + 1)]
            same = all(list(one) == list(other) for one, other in pairwise(between))
            if after > before and same and all(one[was] <= other[was] for one, other in pairwise(between)):
                checked += 1
                count += was != now
    assert checked >= CHANGES
    return count
