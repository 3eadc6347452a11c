import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.features.server import build as build_features
from services.features.settings import Settings as FeaturesSettings
from services.ingest.server import build as build_ingest
from services.ingest.settings import Settings as IngestSettings
from tests.integration.features.world import World
from tests.integration.running import suite_with_lineage


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Lineage, ingest and features, with one Dask worker."""
    async with (
        suite_with_lineage(tmp_path) as suite,
        suite.service("ingest", IngestSettings, build_ingest) as ingest,
        suite.service("features", FeaturesSettings, build_features, dask_workers=1) as features,
    ):
        yield World(suite, ingest, features)
        await asyncio.sleep(0)
