from datetime import timedelta
from pathlib import Path

import pytest

from lineal.errors import ProjectInvalid
from lineal.project import parse_duration, read_project

GOOD = """\
kind: Dataset
name: sales
row_key: [id]
fields:
  - {name: id, type: string}
  - {name: amount, type: float64, minimum: 0}
---
kind: FeatureView
name: shop
dataset: sales
entity_keys: [id]
features:
  - {name: sum_7d, aggregate: {function: sum, column: amount, window: 7d}}
---
kind: FeatureSet
name: fraud
spine: {dataset: sales, cutoff_offset: -2h}
request_features: [amount]
view_features: [{view: shop, keys: {id: id}}]
label: {dataset: sales, key: [id], column: amount, greater_than: 15}
"""


def project(folder: Path, text: str) -> list[str]:
    (folder / "project.yaml").write_text(text)
    with pytest.raises(ProjectInvalid) as error:
        read_project(folder)
    return [f"{Path(m.where).name} {m.field}: {m.what}" for m in error.value.mistakes]


def test_definitions_come_in_the_order_in_which_they_stand_on_each_other(tmp_path: Path) -> None:
    documents = GOOD.split("---\n")
    (tmp_path / "a.yaml").write_text("---\n".join(reversed(documents)))
    found = read_project(tmp_path)
    assert [definition.kind for definition in found] == ["Dataset", "FeatureView", "FeatureSet"]
    feature_set = found[2].message
    assert feature_set.spine.cutoff_offset.ToTimedelta() == timedelta(hours=-2)
    assert feature_set.request_features[0].column == "amount"
    assert dict(feature_set.view_features[0].keys) == {"id": "id"}


@pytest.mark.parametrize(
    ("wrong", "right", "line", "said"),
    [
        ("type: float64", "type: float46", 6, "did you mean 'float64'"),
        ("row_key: [id]", "row_kye: [id]", 3, "did you mean 'row_key'"),
        ("row_key: [id]", "row_key: id", 3, "must be a list"),
        ("window: 7d", "window: seven days", 13, "is no duration"),
        ("minimum: 0", "minimum: none", 6, "must be a number"),
        ("kind: FeatureSet", "kind: FeatrueSet", 15, "did you mean 'FeatureSet'"),
        ("greater_than: 15", "greater_than: 15, equals: late", 20, "excludes"),
        ("row_key: [id]", "row_key: [id", 3, "is no YAML"),
    ],
)
def test_a_mistake_is_told_with_file_and_line(tmp_path: Path, wrong: str, right: str, line: int, said: str) -> None:
    mistakes = project(tmp_path, GOOD.replace(wrong, right))
    assert any(mistake.startswith(f"project.yaml:{line}") or said == "is no YAML" for mistake in mistakes), mistakes
    assert any(said in mistake for mistake in mistakes), mistakes


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    assert len(project(tmp_path, GOOD.replace("float64", "f64").replace("window: 7d", "window: x"))) == 2


def test_a_name_may_be_defined_once(tmp_path: Path) -> None:
    assert "defined twice" in project(tmp_path, GOOD + "---\n" + GOOD.split("---")[0])[0]


def test_the_flights_project_reads() -> None:
    folder = Path(__file__).parents[3] / "examples" / "flights"
    assert {definition.name for definition in read_project(folder) if definition.kind == "Endpoint"} == {"flight-delay"}


@pytest.mark.parametrize(
    ("text", "seconds"), [("7d", 604_800), ("2h30m", 9_000), ("-2h", -7_200), ("0.5s", 0.5), ("1d12h", 129_600)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text).total_seconds() == seconds


def test_an_endpoint_declares_its_fallback(tmp_path: Path) -> None:
    text = """\
kind: Endpoint
name: credit
model: credit
fallback:
  score: 1.0
  decision: 1
  reason: Nobody gets a credit unseen.
  when_suspended: true
  lookup_timeout: 0.5s
"""
    (tmp_path / "project.yaml").write_text(text)
    (found,) = read_project(tmp_path)
    fallback = found.message.fallback
    assert (fallback.score, fallback.decision, fallback.when_suspended) == (1.0, 1, True)
    assert fallback.lookup_timeout.ToTimedelta() == timedelta(milliseconds=500)
