"""A project of another domain, without times and with a protected attribute, through the same commands as any other."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pandas as pd
import pytest
import sklearn.datasets

from lineal.api.monitor.v1 import monitor_service_pb2 as monitor_api
from lineal.cli.files import read_table
from lineal.client import CallFailed, Client
from tests.e2e.conftest import ROOT, Running

pytestmark = pytest.mark.timeout(240)

PATIENTS = 442
SOURCE = Path(sklearn.datasets.__file__).parent / "data"
COLUMNS = "age,sex,bmi,blood_pressure,cholesterol,ldl,hdl,cholesterol_per_hdl,log_triglycerides,glucose"
WITHOUT_SEX = COLUMNS.replace("sex", "")
ONE_DAY = timedelta(days=1)
# Later than any prediction that is dated by the clock, so that no watermark has passed it.
DAY = datetime(2100, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def trained(suite: Running) -> int:
    """Do what the README says, up to the first champion; return the log position of the labels."""
    suite.lineal("apply", "examples/diabetes")
    file = str(SOURCE / "diabetes_data_raw.csv.gz")
    layout = ["--separator", " ", "--columns", COLUMNS, "--row-number", "patient"]
    assert json.loads(suite.lineal("ingest", "patients", file, *layout, "--json"))["accepted"] == PATIENTS
    file = str(SOURCE / "diabetes_target.csv.gz")
    layout = ["--columns", "progression", "--row-number", "patient"]
    known = json.loads(suite.lineal("outcomes", "progressions", file, *layout, "--json"))
    assert known["accepted"] == PATIENTS
    assert "is the first champion of progression" in suite.lineal("train", "progression").replace("\n", " ")
    position: int = known["position"]
    return position


def recorded(client: Client, start: datetime, count: int, min_position: int) -> pd.DataFrame:
    """Return the predictions of a day once there are so many: serving sends them to monitor in batches."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = client.predictions("progression", start=start, end=start + ONE_DAY, min_position=min_position)
        if len(found) == count:
            return found
        time.sleep(0.1)  # between two looks at what another process brings
    pytest.fail(f"monitor has not got {count} predictions of {start} within 60 s")


def test_the_project_is_a_yaml_alone() -> None:
    assert [path.name for path in (ROOT / "examples" / "diabetes").iterdir()] == ["project.yaml"]


def test_gates_see_rows_that_the_model_has_not(suite: Running, trained: int) -> None:
    (bundle,) = json.loads(suite.lineal("bundles", "--model", "progression", "--json"))
    rows = next(gate["finding"] for gate in bundle["gates"] if gate["gate"] == "rows")
    # A third by lot: the same patients on every machine.
    assert rows == "145 untouched rows, at least 100 asked"


def test_groups_are_compared_with_what_the_vault_has(suite: Running, trained: int) -> None:
    (run,) = json.loads(suite.lineal("runs", "--model", "progression", "--json"))
    told = {metric["name"]: metric["value"] for metric in run["metrics"]}
    assert told["rows{sex=1}"] + told["rows{sex=2}"] == 145
    assert 0 <= told["demographic_parity_difference{sex}"] <= 1
    assert "equal_opportunity_difference{sex}" in told
    assert "## By sex" in suite.lineal("card", run["bundle_digest"][:12])
    with suite.client() as client:
        assert "sex" not in client.snapshot("patients").columns
    read = suite.lineal("events", "--stream", "vault/patients", "--json")
    assert f"evaluation of run {run['run_id']}" in read


def test_predictions_without_times_are_dated_when_they_are_asked_for(
    suite: Running, trained: int, tmp_path: Path
) -> None:
    out = tmp_path / "answers.csv"
    file = str(SOURCE / "diabetes_data_raw.csv.gz")
    layout = ["--separator", " ", "--columns", WITHOUT_SEX, "--row-number", "patient"]
    suite.lineal("predict", "progression", file, *layout, "--out", str(out))
    assert len(read_table(out)) == PATIENTS


def test_rows_at_once_are_scored_and_returned_to(suite: Running, trained: int, tmp_path: Path) -> None:
    out = tmp_path / "scores.parquet"
    told = json.loads(suite.lineal("score", "progression", "patients", "--out", str(out), "--json"))
    assert int(told["result"]["rows"]) == PATIENTS
    scores = read_table(out).to_pandas()
    rows = read_table(SOURCE / "diabetes_data_raw.csv.gz", " ", WITHOUT_SEX, "patient").to_pandas()
    with suite.client() as client:
        answers = client.predict("progression", rows)
    assert scores.set_index("patient").loc[rows["patient"], "score"].tolist() == answers["score"].tolist()
    again = json.loads(suite.lineal("scoring", told["scoring_id"], "--no-wait", "--json"))
    assert again == told
    with pytest.raises(CallFailed, match="rows of 'patients' have no time"), suite.client() as client:
        client.scorings.score("progression", "patients", start=DAY)


def test_monitor_compares_with_what_the_model_learnt_from_and_what_is_computed_anew(
    suite: Running, trained: int
) -> None:
    rows = read_table(SOURCE / "diabetes_data_raw.csv.gz", " ", WITHOUT_SEX, "patient").to_pandas()
    with suite.client() as client:
        client.predict("progression", rows, event_time=DAY)
        found = recorded(client, DAY, PATIENTS, trained)
        assert found["outcome"].notna().all()
        # The one column that is computed for a request, in each prediction.
        parity = client.check_parity("progression", predictions=PATIENTS, start=DAY, end=DAY + ONE_DAY)
        assert (parity.check.values, parity.check.differing_values) == (PATIENTS, 0)
        client.predict("progression", rows.head(1), event_time=DAY + 3 * ONE_DAY)
        recorded(client, DAY + 3 * ONE_DAY, 1, trained)
        request = monitor_api.ExaminePeriodsRequest(request_id=str(uuid4()), endpoint="progression")
        client.services.monitor.call("ExaminePeriods", request)
        periods = client.services.monitor.call("ListPeriods", monitor_api.ListPeriodsRequest(endpoint="progression"))
        (period,) = (each for each in periods.periods if each.start_time.ToDatetime(UTC) == DAY)
        assert (period.examined, period.predictions, list(period.drifted_columns)) == (True, PATIENTS, [])
        wanted = monitor_api.GetPeriodReportRequest(report_digest=period.report_digest)
        report = client.services.monitor.call("GetPeriodReport", wanted).report
        (arm,) = report.performance
        assert arm.outcomes == PATIENTS
        assert arm.auc > 0.75
