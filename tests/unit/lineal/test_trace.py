import json
from pathlib import Path
from typing import Any

from lineal.trace import spans_of

TRACE = "0af7651916cd43dd8448eb211c80319c"


def span(trace_id: str, attributes: list[dict[str, Any]]) -> dict[str, Any]:
    times = {"startTimeUnixNano": "1000000", "endTimeUnixNano": "1900000"}
    return {"traceId": trace_id, "spanId": "b7ad6b7169203331", "name": "Predict", "attributes": attributes, **times}


def test_spans_of_a_trace_have_the_stages_that_their_service_told(tmp_path: Path) -> None:
    told = [
        {"key": "lineal.features_micros", "value": {"intValue": "420"}},
        {"key": "lineal.score_micros", "value": {"intValue": "9"}},
        {"key": "lineal.rows", "value": {"intValue": "1"}},
        {"key": "other_micros", "value": {"intValue": "5"}},
    ]
    service = {"attributes": [{"key": "service.name", "value": {"stringValue": "serving"}}]}
    spans = [span(TRACE, told), span("f" * 32, []), span(TRACE, [])]
    line = json.dumps({"resourceSpans": [{"resource": service, "scopeSpans": [{"spans": spans}]}]})
    (tmp_path / "serving-spans.jsonl").write_text(line + "\n")
    found = list(spans_of(tmp_path, TRACE))
    assert [(one["service"], one["name"], one["micros"]) for one in found] == [("serving", "Predict", 900)] * 2
    assert [one["stages"] for one in found] == [{"features": 420, "score": 9}, {}]
