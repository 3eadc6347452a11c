import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from google.protobuf.text_format import Parse
from hypothesis import given
from hypothesis import strategies as st

from lineal.api.features.v1.feature_view_pb2 import FeatureView
from lineal.api.features.v1.transform_pb2 import Transform
from lineal.api.ingest.v1.dataset_pb2 import Sensitivity
from tabular import definitions
from tabular.columns import TIMESTAMP
from tabular.transforms import extended, needed
from tests.unit.tabular.declarations import ends

Row = tuple[float | None, float | None, str | None, str | None, datetime | None, datetime | None]

DECLARED = """
    transforms { name: "ratio" ratio { numerator: "a" denominator: "b" } }
    transforms { name: "less" difference { left: "a" right: "b" } }
    transforms { name: "seconds" difference { left: "t" right: "u" } }
    transforms { name: "times" product { left: "a" right: "b" } }
    transforms { name: "both" cross { left: "s" right: "r" } }
    transforms { name: "bin" bins { column: "a" edges: -1 edges: 0 edges: 10 } }
    transforms { name: "hour" calendar { column: "t" part: CALENDAR_PART_HOUR zone: "America/New_York" } }
    transforms { name: "weekday" calendar { column: "t" part: CALENDAR_PART_DAY_OF_WEEK } }
    transforms { name: "yearday" calendar { column: "t" part: CALENDAR_PART_DAY_OF_YEAR zone: "Asia/Tokyo" } }
    transforms { name: "length" text_length { column: "both" } }
    transforms { name: "filled" impute { column: "a" number: 7 flag: "a_missing" } }
    transforms { name: "named" impute { column: "s" text: "none" } }
    transforms { name: "clipped" clip { column: "filled" minimum: -5 maximum: 5 } }
    transforms { name: "scaled" scale { column: "clipped" center: 1 width: 4 } }
"""
TRANSFORMS: list[Transform] = list(Parse(DECLARED, FeatureView()).transforms)
SCHEMA = pa.schema(
    [
        ("a", pa.float64()),
        ("b", pa.float64()),
        ("s", pa.string()),
        ("r", pa.string()),
        ("t", TIMESTAMP),
        ("u", TIMESTAMP),
    ]
)


def number(compute: Callable[[], float]) -> float | None:
    try:
        value = compute()
    except (ZeroDivisionError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def naive(row: Row) -> dict[str, float | str | None]:
    """Say what each transform is in plain Python, value by value."""
    a, b, s, r, t, u = row
    a, b = (None if x is None or not math.isfinite(x) else x for x in (a, b))
    filled = 7.0 if a is None else a
    clipped = min(max(filled, -5.0), 5.0)
    pair = None if a is None or b is None else (a, b)
    parts = [None if x is None else x.replace("\\", "\\\\").replace("|", "\\|") for x in (s, r)]
    both = None if None in parts else "|".join(str(part) for part in parts)
    return {
        "ratio": number(lambda: pair[0] / pair[1]) if pair else None,
        "less": number(lambda: pair[0] - pair[1]) if pair else None,
        "seconds": (t - u) / timedelta(seconds=1) if t and u else None,
        "times": number(lambda: pair[0] * pair[1]) if pair else None,
        "both": both,
        "bin": None if a is None else float(sum(a >= edge for edge in (-1, 0, 10))),
        "hour": float(t.astimezone(ZoneInfo("America/New_York")).hour) if t else None,
        "weekday": float(t.isoweekday()) if t else None,
        "yearday": float(t.astimezone(ZoneInfo("Asia/Tokyo")).timetuple().tm_yday) if t else None,
        "length": None if both is None else float(len(both)),
        "filled": filled,
        "a_missing": float(a is None),
        "named": "none" if s is None else s,
        "clipped": clipped,
        "scaled": (clipped - 1) / 4,
    }


numbers = st.one_of(st.none(), st.floats(allow_nan=False), st.sampled_from([0.0, -1.0, 10.0]))
texts = st.one_of(st.none(), st.text(max_size=4), st.sampled_from(["a|b", "\\"]))
instants = st.one_of(
    st.none(),
    st.datetimes(datetime(1990, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)


@given(st.lists(st.tuples(numbers, numbers, texts, texts, instants, instants), max_size=20))
def test_transforms_equal_the_naive_reference(rows: list[Row]) -> None:
    table = pa.table([[row[n] for row in rows] for n in range(6)], schema=SCHEMA)
    made = extended(table, TRANSFORMS)
    expected = [naive(row) for row in rows]
    for name in naive((None,) * 6):
        for value, wanted in zip(made[name].to_pylist(), (row[name] for row in expected), strict=True):
            if isinstance(wanted, float):
                assert math.isclose(value, wanted, rel_tol=1e-12, abs_tol=1e-12), name
            else:
                assert value == wanted, name


def test_only_what_is_asked_for_is_computed_and_read() -> None:
    chosen, read = needed(TRANSFORMS, ["scaled", "b", "a_missing"])
    assert [transform.name for transform in chosen] == ["filled", "clipped", "scaled"]
    assert sorted(read) == ["a", "b"]


def declared(text: str) -> FeatureView:
    view = f'name: "v" dataset: "ends" entity_keys: "driver" features {{ name: "f" latest {{ column: "x" }} }} {text}'
    return Parse(view, FeatureView())


@pytest.mark.parametrize(
    ("transform", "path"),
    [
        ('name: "x"', "transforms[0]"),
        ('name: "x y" text_length { column: "weather" }', "transforms[0].name"),
        ('name: "delay" text_length { column: "weather" }', "transforms[0].name"),
        ('name: "x" impute { column: "delay" number: 1 flag: "x" }', "transforms[0].impute.flag"),
        ('name: "x" ratio { numerator: "delay" denominator: "dela" }', "transforms[0].ratio.denominator"),
        ('name: "x" ratio { numerator: "delay" denominator: "told" }', "transforms[0].ratio.denominator"),
        ('name: "x" difference { left: "delay" right: "told" }', "transforms[0].difference.right"),
        ('name: "x" product { left: "weather" right: "delay" }', "transforms[0].product.left"),
        ('name: "x" cross { left: "weather" right: "delay" }', "transforms[0].cross.right"),
        ('name: "x" bins { column: "delay" edges: 2 edges: 1 }', "transforms[0].bins.edges"),
        ('name: "x" bins { column: "delay" }', "transforms[0].bins.edges"),
        ('name: "x" calendar { column: "told" }', "transforms[0].calendar.part"),
        ('name: "x" calendar { column: "told" part: CALENDAR_PART_HOUR zone: "Mars" }', "transforms[0].calendar.zone"),
        ('name: "x" calendar { column: "told" part: CALENDAR_PART_HOUR zone: "../x" }', "transforms[0].calendar.zone"),
        ('name: "x" impute { column: "weather" number: 1 }', "transforms[0].impute"),
        ('name: "x" impute { column: "delay" number: nan }', "transforms[0].impute.number"),
        ('name: "x" clip { column: "delay" }', "transforms[0].clip"),
        ('name: "x" clip { column: "delay" minimum: 2 maximum: 1 }', "transforms[0].clip.minimum"),
        ('name: "x" scale { column: "delay" center: 1 }', "transforms[0].scale.width"),
    ],
)
def test_a_wrong_transform_is_named_by_path(transform: str, path: str) -> None:
    violations = definitions.view_violations(declared(f"transforms {{ {transform} }}"), ends())
    assert path in [violation.field for violation in violations]


def test_a_protected_attribute_is_no_part_of_a_transform() -> None:
    dataset = ends()
    definition = next(field for field in dataset.fields if field.name == "weather")
    definition.sensitivity = Sensitivity.SENSITIVITY_PROTECTED_ATTRIBUTE
    view = declared('transforms { name: "x" text_length { column: "weather" } }')
    assert [v.field for v in definitions.view_violations(view, dataset)] == ["transforms[0].text_length.column"]


def test_features_take_transforms_like_columns() -> None:
    view = declared('transforms { name: "x" cross { left: "weather" right: "driver" } }')
    assert not definitions.view_violations(view, ends())
    late = declared(
        'transforms { name: "x" clip { column: "y" minimum: 0 } } '
        'transforms { name: "y" bins { column: "delay" edges: 1 } }'
    )
    assert [v.field for v in definitions.view_violations(late, ends())] == ["transforms[0].clip.column"]
