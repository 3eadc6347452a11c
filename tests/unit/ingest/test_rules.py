import json
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from google.protobuf.text_format import Parse
from hypothesis import given
from hypothesis import strategies as st

from lineal.api.ingest.v1.dataset_pb2 import Dataset, Sensitivity
from lineal.api.ingest.v1.rules_pb2 import Comparison, Operator, Rule
from services.ingest.distribution import judge, psi, summary
from services.ingest.rules import broken, described, reference_violations, rule_violations
from services.ingest.surroundings import Surroundings
from services.ingest.validation import REASONS, ROW_NUMBER, Validator
from tabular.schema import arrow_schema

DECLARED = """
name: "legs"
fields { name: "leg" type: FIELD_TYPE_INT64 }
fields { name: "kind" type: FIELD_TYPE_STRING nullable: true }
fields { name: "plane" type: FIELD_TYPE_STRING nullable: true }
fields { name: "km" type: FIELD_TYPE_FLOAT64 nullable: true }
fields { name: "minutes" type: FIELD_TYPE_INT64 nullable: true }
fields { name: "left" type: FIELD_TYPE_TIMESTAMP nullable: true }
row_key: "leg"
"""
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def legs(rules: str = "") -> Dataset:
    return Parse(DECLARED + rules, Dataset())


def table(*rows: Mapping[str, object]) -> pa.Table:
    return pa.Table.from_pylist([{"leg": n, **row} for n, row in enumerate(rows)], schema=arrow_schema(legs()))


def rule(text: str) -> Rule:
    return Parse(f'name: "r" {text}', Rule())


@pytest.mark.parametrize(
    ("text", "rows", "expected", "shown"),
    [
        (
            'compare { column: "km" operator: OPERATOR_GREATER other_column: "minutes" }',
            [{"km": 2.0, "minutes": 1}, {"km": 1.0, "minutes": 1}, {"km": None, "minutes": 1}],
            [1],
            "r: km must be greater than minutes",
        ),
        (
            'compare { column: "km" operator: OPERATOR_IS_PRESENT } '
            'when { column: "kind" operator: OPERATOR_EQUAL text: "flown" }',
            [{"kind": "flown", "km": None}, {"kind": "flown", "km": 1.0}, {"kind": "x"}, {"kind": None}],
            [0],
            "r: km must be there where kind is equal to flown",
        ),
        (
            'compare { column: "left" operator: OPERATOR_LESS time { seconds: 1714564800 } }',
            [{"left": NOON}, {"left": NOON.replace(hour=11)}],
            [0],
            "r: left must be less than 2024-05-01T12:00:00+00:00",
        ),
        (
            'unique { columns: ["kind", "plane"] }',
            [{"kind": "a", "plane": "p"}, {"kind": "a", "plane": None}, {"kind": "a", "plane": "p"}, {"kind": "a"}],
            [2],
            "r: kind,plane is in the batch already; the first such row counts",
        ),
    ],
)
def test_rows_that_break_a_rule_are_found(
    text: str, rows: list[dict[str, object]], expected: list[int], shown: str
) -> None:
    declared = rule(text)
    assert np.flatnonzero(broken(declared, table(*rows))).tolist() == expected
    assert described(declared) == shown


def test_a_reference_is_looked_up_without_losing_large_integers() -> None:
    declared = rule('reference { column: "minutes" dataset: "o" other_column: "m" }')
    known = {"r": pd.Index([2**60, 7])}
    rows = table({"minutes": 2**60}, {"minutes": 2**60 + 1}, {"minutes": None}, {"minutes": 7})
    assert np.flatnonzero(broken(declared, rows, known)).tolist() == [1]
    assert broken(declared, rows, {"r": pd.Index([])}).tolist() == [True, True, False, True]


@given(
    st.lists(
        st.tuples(
            st.none() | st.floats(allow_nan=False, allow_infinity=False), st.none() | st.integers(-(2**40), 2**40)
        ),
        max_size=20,
    ),
    st.sampled_from([value for value in Operator.values() if 0 < value < 7]),
)
def test_a_comparison_is_what_python_says(pairs: list[tuple[float | None, int | None]], operator: int) -> None:
    compare = {1: "__eq__", 2: "__ne__", 3: "__lt__", 4: "__le__", 5: "__gt__", 6: "__ge__"}[operator]
    declared = Rule(
        name="r",
        compare=Comparison(column="km", operator=operator, other_column="minutes"),  # type: ignore[arg-type]
    )
    rows = table(*({"km": km, "minutes": minutes} for km, minutes in pairs))
    expected = [
        km is not None and minutes is not None and not getattr(km, compare)(float(minutes)) for km, minutes in pairs
    ]
    assert broken(declared, rows).tolist() == expected


def test_warned_rows_are_accepted_and_counted_refused_ones_are_not() -> None:
    declared = legs("""
        rules { name: "fast" severity: SEVERITY_WARN
                compare { column: "km" operator: OPERATOR_LESS number: 900 } }
        rules { name: "timed" compare { column: "minutes" operator: OPERATOR_IS_PRESENT } }
    """)
    rows = table({"km": 1000.0, "minutes": 1}, {"km": 1000.0}, {"km": 1.0, "minutes": 1})
    parted = Validator(declared).validate(rows)
    assert parted.accepted["leg"].to_pylist() == [0, 2]
    assert parted.warned_rows == 1
    assert [(f.rule, f.rows, f.message) for f in parted.findings] == [("fast", 1, "fast: km must be less than 900")]
    assert parted.quarantined[ROW_NUMBER].to_pylist() == [1]
    (reason,) = json.loads(parted.quarantined[REASONS][0].as_py())
    assert reason == {"field": "minutes", "message": "timed: minutes must be there", "kind": "rule"}


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ('rules { name: "r" }', "rules[0]"),
        ('rules { name: "r" compare { column: "km" operator: OPERATOR_LESS } }', "rules[0].compare"),
        ('rules { name: "r" compare { column: "kn" operator: OPERATOR_LESS number: 1 } }', "rules[0].compare.column"),
        ('rules { name: "r" compare { column: "km" operator: OPERATOR_LESS text: "a" } }', "rules[0].compare.text"),
        (
            'rules { name: "r" compare { column: "km" operator: OPERATOR_LESS other_column: "kind" } }',
            "rules[0].compare.other_column",
        ),
        ('rules { name: "r" compare { column: "km" number: 1 } }', "rules[0].compare.operator"),
        (
            'rules { name: "r" unique { columns: "km" } } rules { name: "r" unique { columns: "km" } }',
            "rules[1].name",
        ),
        ('rules { name: "r" unique { columns: "x" } }', "rules[0].unique.columns[0]"),
        ('distribution_checks { name: "c" column: "km" }', "distribution_checks[0]"),
        (
            'distribution_checks { name: "c" column: "km" new_categories: 0.1 }',
            "distribution_checks[0].new_categories",
        ),
        ('rules { name: "r" reference { column: "plane" dataset: "planes" other_column: "tail" } }', ""),
    ],
)
def test_a_wrong_rule_is_named(rules: str, field: str) -> None:
    assert [violation.field for violation in rule_violations(legs(rules))] == ([field] if field else [])


def test_a_reference_needs_its_dataset_and_a_column_of_the_same_type() -> None:
    declared = legs('rules { name: "r" reference { column: "plane" dataset: "o" other_column: "leg" } }')
    assert [v.field for v in reference_violations(declared, {"o": None})] == ["rules[0].reference.dataset"]
    assert [v.field for v in reference_violations(declared, {"o": legs()})] == ["rules[0].reference.other_column"]
    declared.rules[0].reference.other_column = "plane"
    assert reference_violations(declared, {"o": legs()}) == []
    protected = legs()
    for field in protected.fields:
        field.sensitivity = Sensitivity.SENSITIVITY_PROTECTED_ATTRIBUTE
    assert "vault" in reference_violations(declared, {"o": protected})[0].description


def test_a_batch_unlike_the_reference_is_refused_as_a_whole() -> None:
    declared = legs('distribution_checks { name: "mix" column: "kind" minimum_rows: 10 population_shift: 0.2 }')
    before = summary(pa.chunked_array([["a"] * 50 + ["b"] * 50]))
    same = table(*({"kind": "ab"[n % 2]} for n in range(20)))
    other = table(*({"kind": "b"} for n in range(20)))
    around = Surroundings(columns={"kind": before})
    assert Validator(declared).validate(same, around=around).quarantined.num_rows == 0
    parted = Validator(declared).validate(other, around=around)
    assert (parted.accepted.num_rows, parted.quarantined.num_rows) == (0, 20)
    assert "(PSI)" in parted.findings[0].message
    # Too few rows say nothing about a population.
    assert Validator(declared).validate(other.slice(0, 9), around=around).quarantined.num_rows == 0
    declared.distribution_checks[0].severity = 1  # type: ignore[assignment]
    assert Validator(declared).validate(other, around=around).accepted.num_rows == 20


@pytest.mark.parametrize(
    ("limit", "reference", "batch", "holds"),
    [
        ("missing_rate: 0.1", [1, None] * 5, [1, None] * 50, True),
        ("missing_rate: 0.1", [1] * 10, [1, None] * 50, False),
        ("new_categories: 0.3", [1, 2], [1, 2, 3, 3] * 25, False),
        ("new_categories: 0.5", [1, 2], [1, 2, 3, 3] * 25, True),
        ("population_shift: 0.1", list(range(100)), list(range(100)), True),
        ("population_shift: 0.1", list(range(100)), list(range(50, 150)), False),
        ("population_shift: 0.1", [], [1] * 100, True),
        ("population_shift: 0.1", [1], [None] * 100, True),
    ],
)
def test_a_check_is_judged(limit: str, reference: list[object], batch: list[object], holds: bool) -> None:
    check = legs(f'distribution_checks {{ name: "c" column: "minutes" {limit} }}').distribution_checks[0]
    columns = [pa.chunked_array([pa.array(values, pa.int64())]) for values in (reference, batch)]
    assert (judge(check, columns[1], summary(columns[0])) == "") is holds


def test_psi_is_its_formula() -> None:
    assert psi([0.5, 0.5], [0.5, 0.5]) == 0
    assert psi([0.5, 0.5], [0.25, 0.75]) == pytest.approx(0.25 * np.log(2) + 0.25 * np.log(1.5))
