"""`lineal plan` against running services: it tells what `apply` then does, and writes nothing."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from lineal import Client
from lineal.api.features.v1 import features_service_pb2 as features_api
from lineal.api.lineage.v1 import lineage_service_pb2 as lineage_api
from lineal.differences import Difference
from lineal.plan import Plan
from tests.integration.running import Suite

SHOP = Path(__file__).parents[2] / "examples" / "shop" / "project.yaml"


async def lineal(suite: Suite, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "lineal.cli", "--connect", str(suite.profile), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


def states(found: Plan) -> dict[tuple[str, str], str]:
    return {(planned.kind, planned.name): str(planned.change) for planned in found.definitions}


async def test_a_plan_tells_what_an_apply_then_does(suite: Suite, tmp_path: Path) -> None:
    await suite.start("lineage", "ingest", "features", "registry")
    project = tmp_path / "project"
    project.mkdir()
    file = project / "shop.yaml"
    file.write_text(SHOP.read_text())

    async def head() -> int:
        return int((await suite.stub("lineage").GetHead(lineage_api.GetHeadRequest())).position)

    def planned_then_applied() -> tuple[Plan, Any]:
        with Client(suite.profile) as client:
            before = client.plan(project)
            client.apply(project)
            assert not client.plan(project).changes
            request = features_api.GetFeatureSetRequest(name="order")
            return before, client.services.features.call("GetFeatureSet", request)

    first, declared = await asyncio.to_thread(planned_then_applied)
    assert set(states(first).values()) == {"new"}
    assert {p.version for p in first.definitions if p.kind == "FeatureSet"} == {declared.version}
    position = await head()
    code, out = await lineal(suite, "plan", str(project))
    assert (code, out.splitlines()[-1]) == (0, "0 new, 0 changed, 6 unchanged")

    text = file.read_text().replace("column: unpaid, window: 30d", "column: unpaid, window: 7d")
    file.write_text(text.replace("strict: true", "strict: false"))
    code, out = await lineal(suite, "plan", str(project), "--json")
    told = json.loads(out)
    assert (code, told["changes"]) == (2, True)
    changed = [entry["kind"] for entry in told["definitions"] if entry["change"] == "changed"]
    assert changed == ["FeatureView", "FeatureSet", "Endpoint"]
    code, out = await lineal(suite, "plan", str(project))
    assert code == 2
    assert '    features[unpaid_30d].aggregate.window: "30d" -> "7d"' in out.splitlines()
    assert "    touches feature set order; model unpaid; endpoint unpaid" in out.splitlines()
    assert await head() == position

    second, declared = await asyncio.to_thread(planned_then_applied)
    found = {planned.kind: planned for planned in second.definitions}
    assert found["FeatureSet"].version == declared.version != found["FeatureSet"].old_version
    assert found["Endpoint"].differences == (Difference("strict", True, None),)
