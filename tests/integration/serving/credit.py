"""A world in which credits are decided: a bundle with a population, made without a training run."""

import io
from collections.abc import Sequence
from functools import cache
from typing import Any

import catboost
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from chassis.artifacts import canonical_json
from lineal.api.features.v1.transform_pb2 import Ratio, Transform
from lineal.api.registry.v1 import registry_service_pb2 as registry_api
from lineal.api.registry.v1.endpoint_pb2 import Endpoint
from lineal.api.registry.v1.explanation_pb2 import AdverseScores, ExplanationPolicy, ReasonGroup, ReasonText
from lineal.api.registry.v1.model_pb2 import Model
from lineal.api.serving.v1 import serving_service_pb2 as serving_api
from services.trainer import guarding
from tabular.bundle import GUARD_FILE, MODEL_FILE, REFERENCE_FILE, Bundle, ModelColumn
from tabular.columns import from_numpy
from tabular.vectors import assemble
from tests.integration.test_predictions import World, champion, model_bytes, rid

COLUMNS = ("income", "debt", "late", "age", "months", "region")
ROWS = 2_000
BURDEN = Transform(name="burden", ratio=Ratio(numerator="debt", denominator="income"))
Rows = dict[str, npt.NDArray[Any]]


def by(person: str) -> list[tuple[str, str]]:
    """Return the metadata of a person's call."""
    return [("x-lineal-actor", f"person:{person}")]


def rows(count: int, seed: int) -> Rows:
    """Return applicants; some leave out their debts."""
    chance = np.random.default_rng(seed)
    debt = chance.gamma(2, 2_000, count).round(-2)
    debt[chance.random(count) < 0.05] = np.nan
    return {
        "income": chance.normal(3_000, 900, count).clip(500, 9_000).round(-1),
        "debt": debt,
        "late": chance.poisson(0.8, count).astype(float),
        "age": chance.integers(18, 80, count).astype(float),
        "months": chance.integers(0, 240, count).astype(float),
        "region": chance.choice(np.array(["north", "south", "west"], dtype=object), count),
    }


def learnt_from(*, burden: bool) -> Rows:
    """Return what the model is fitted on, with the share of debts in the income where it is asked for."""
    learnt = rows(ROWS, 0)
    return learnt | ({BURDEN.name: learnt["debt"] / learnt["income"]} if burden else {})


@cache
def fitted(*, burden: bool = False) -> catboost.CatBoostClassifier:
    """Return a model of the probability of a default."""
    learnt = learnt_from(burden=burden)
    risk = -learnt["income"] / 1_000 + np.nan_to_num(learnt["debt"]) / 3_000 + learnt["late"] - learnt["months"] / 100
    label = (risk + (learnt["region"] == "south") + np.random.default_rng(1).normal(size=ROWS) > -2).astype(int)
    listed = [list(row) for row in zip(*(values.tolist() for values in learnt.values()), strict=True)]
    pool = catboost.Pool(listed, label, cat_features=[5], feature_names=list(learnt))
    settings = {"iterations": 80, "depth": 4, "thread_count": 1, "verbose": False, "allow_writing_files": False}
    return catboost.CatBoostClassifier(**settings).fit(pool)


def policy(**fields: Any) -> ExplanationPolicy:
    """Return a policy that leaves `region` without a reason."""
    groups = (
        (["income", "months"], "R1", "income or time at the employer too low"),
        (["debt"], "R2", "debts too high"),
        (["late"], "R3", "payments were late"),
        (["age"], "R4", "length of history"),
    )
    reasons = [
        ReasonGroup(
            columns=columns, raises=ReasonText(code=code, text=text), lowers=ReasonText(code=f"{code}+", text="good")
        )
        for columns, code, text in groups
    ]
    return ExplanationPolicy(adverse_scores=AdverseScores.ADVERSE_SCORES_HIGH, reasons=reasons, **fields)


class Bank(World):
    """An endpoint `shop` that decides credits."""

    def __init__(self, suite: Any) -> None:
        self.suite = suite
        self.registry, self.serving, self.monitor = (suite.stub(name) for name in ("registry", "serving", "monitor"))

    async def open(
        self,
        explanations: ExplanationPolicy | None,
        *,
        burden: bool = False,
        guarded: bool = False,
        **endpoint_fields: Any,
    ) -> str:
        """Declare the model by `ada`, have it reviewed by `grace`, and serve it; return the bundle's digest.

        With `burden` the model takes the share of debts in the income, too, which is computed on demand.
        """
        digest = ""
        if explanations is not None:
            digest = await self.declare(explanations)
            await self.review(digest, "grace")
        else:
            await self.registry.RegisterModel(
                registry_api.RegisterModelRequest(request_id=rid(), model=Model(name="shop"))
            )
        endpoint = Endpoint(name="shop", model="shop", strict=True, **endpoint_fields)
        await self.registry.RegisterEndpoint(registry_api.RegisterEndpointRequest(request_id=rid(), endpoint=endpoint))
        bundle = self.credit_bundle(burden=burden, guarded=guarded)
        await self.releasable(bundle)
        await self.arms(champion(bundle))
        return bundle

    async def declare(self, explanations: ExplanationPolicy) -> str:
        """Declare a policy; return its digest."""
        model = Model(name="shop", explanations=explanations)
        request = registry_api.RegisterModelRequest(request_id=rid(), model=model)
        await self.registry.RegisterModel(request, metadata=by("ada"))
        found = await self.registry.GetModel(registry_api.GetModelRequest(name="shop"))
        return str(found.review.policy_digest)

    async def review(self, digest: str, person: str, reason: str = "read") -> None:
        """Review a policy as a person."""
        request = registry_api.ReviewExplanationsRequest(
            request_id=rid(), model="shop", policy_digest=digest, reason=reason
        )
        await self.registry.ReviewExplanations(request, metadata=by(person))

    def credit_bundle(self, *, burden: bool = False, guarded: bool = False) -> str:
        """Put a bundle of the model, with a sample of what it was fitted on, and maybe with a guard."""
        artifacts, learnt = self.suite.artifacts, learnt_from(burden=burden)
        buffer = io.BytesIO()
        listed = [list(row) for row in zip(*(values.tolist() for values in learnt.values()), strict=True)]
        pq.write_table(pa.table(learnt | {"score": fitted(burden=burden).predict_proba(listed)[:, 1]}), buffer)
        model = artifacts.put(model_bytes(fitted(burden=burden)))
        files = {MODEL_FILE: model, REFERENCE_FILE: artifacts.put(buffer.getvalue())}
        columns = tuple(
            ModelColumn(
                name,
                "categorical" if name == "region" else "numeric",
                "transform" if name == BURDEN.name else "request",
            )
            for name in learnt
        )
        transforms = (BURDEN,) if burden else ()
        bundle = Bundle("shop", "binary", columns, files, transforms=transforms)
        if guarded:
            parts = (assemble(columns, rows(ROWS, seed), ROWS) for seed in (0, 1))
            files[GUARD_FILE] = artifacts.put(canonical_json(guarding.fit(bundle, *parts).to_json()))
        digest: str = artifacts.put(canonical_json(bundle.to_json()))
        return digest

    async def explain(self, part: Rows) -> serving_api.ExplainResponse:
        """Explain rows."""
        found: serving_api.ExplainResponse = await self.serving.Explain(
            serving_api.ExplainRequest(endpoint="shop", columns=sent(part))
        )
        return found

    async def answers(self, part: Rows) -> serving_api.PredictResponse:
        """Predict rows."""
        request = serving_api.PredictRequest(endpoint="shop", request_id=rid(), columns=sent(part))
        found: serving_api.PredictResponse = await self.serving.Predict(request)
        return found


def sent(part: Rows) -> Sequence[Any]:
    """Return rows as requests have them."""
    return [from_numpy(name, values) for name, values in part.items()]
