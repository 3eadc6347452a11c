from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.running import Suite, running


@pytest.fixture
async def suite(tmp_path: Path) -> AsyncIterator[Suite]:
    """A data folder in which services can be started."""
    async with running(tmp_path) as found:
        yield found
