import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lineal.profile import Profile
from tests.e2e.conftest import Running

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize("how", ["sync", "aio"])
def test_tritonclient_reads_the_metadata_and_gets_the_scores_of_the_sdk(
    suite: Running, notebook: dict[str, Any], how: str
) -> None:
    generator = np.random.default_rng(3)
    rows = pd.DataFrame(
        {
            "amount": generator.gamma(2.0, 40.0, 200),
            "country": generator.choice(["AT", "DE", "FR", "never seen"], 200),
            "customer": generator.choice([f"c{number}" for number in range(60)], 200),
        }
    )
    # Other tests may have killed services a moment ago.
    suite.lineal("status", "--wait")
    with suite.client() as client:
        # A far event time would look up another past: both ask for now.
        expected = client.predict("unpaid", rows)
    address = Profile.load(suite.profile).address("serving")
    command = [sys.executable, str(Path(__file__).with_name("triton.py")), how, address, "unpaid"]
    done = subprocess.run(
        [*command, json.dumps(rows.to_dict("list"))], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    inputs = [(tensor["name"], tensor["datatype"]) for tensor in told["metadata"]["inputs"]]
    assert inputs == [("amount", "FP64"), ("country", "BYTES"), ("customer", "BYTES")]
    assert told["metadata"]["versions"] == [expected["bundle_digest"][0]]
    np.testing.assert_allclose(told["scores"], expected["score"], rtol=0, atol=1e-9)
