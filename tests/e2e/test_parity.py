"""What real predictions were given is computed anew from the accepted rows, by command and by SDK."""

import json
import time
from datetime import timedelta
from typing import Any

import pytest

from tests.e2e.conftest import Running

pytestmark = pytest.mark.timeout(240)


def test_the_notebooks_predictions_were_given_what_its_rows_give(suite: Running, notebook: dict[str, Any]) -> None:
    asked = set(notebook["answers"]["prediction_id"])
    span = {"start": notebook["now"], "end": notebook["now"] + timedelta(seconds=1)}
    with suite.client() as client:
        end = time.monotonic() + 60
        # Records go to monitor in batches.
        while not asked <= set(client.check_parity("unpaid", **span).report.prediction_ids):
            assert time.monotonic() < end
            time.sleep(0.2)  # between two looks at what another process brings
    given = [f"--{name}={moment:%Y-%m-%d %H:%M:%S}" for name, moment in span.items()]
    shown = json.loads(suite.lineal("parity", "unpaid", *given, "--json"))
    assert asked <= set(shown["report"]["prediction_ids"])
    assert (int(shown["check"]["differing_values"]), shown["report"]["differences"], shown["alarms"]) == (0, [], [])
    assert int(shown["check"]["values"]) >= 2 * len(asked)
    assert "values computed anew, 0 differ" in " ".join(suite.lineal("parity", "unpaid", *given).split())
