from typing import Any

import pytest

pytestmark = pytest.mark.timeout(240)


def test_the_notebook_takes_and_gives_data_frames(notebook: dict[str, Any]) -> None:
    assert notebook["saga"].outcome.endswith("is the first champion of unpaid")
    answers, recorded, rows = notebook["answers"], notebook["recorded"], notebook["rows"]
    assert answers["score"].between(0, 1).all()
    assert set(answers["prediction_id"]) <= set(recorded["prediction_id"])
    late = recorded.set_index("prediction_id").loc[answers["prediction_id"]]
    assert late["outcome"].tolist() == notebook["late"]["unpaid"].tolist()
    assert {"amount", "country", "customer_unpaid_30d", "label"} <= set(rows.columns)
    assert len(rows) == notebook["count"]
