"""Rules over whole rows: comparisons of columns, values that occur once, values that another dataset has."""

from collections.abc import Iterator, Mapping
from datetime import UTC
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lineal.api.ingest.v1.dataset_pb2 import Dataset, Field, FieldType
from lineal.api.ingest.v1.rules_pb2 import Comparison, DistributionCheck, Operator, Rule, Severity
from tabular.definitions import field_of, name_violations
from tabular.schema import Violation, did_you_mean, protected

_NUMBERS = (FieldType.FIELD_TYPE_INT64, FieldType.FIELD_TYPE_FLOAT64)
_ALONE = {Operator.OPERATOR_IS_NULL: "be missing", Operator.OPERATOR_IS_PRESENT: "be there"}
_WORDS = {
    Operator.OPERATOR_EQUAL: "be equal to",
    Operator.OPERATOR_NOT_EQUAL: "differ from",
    Operator.OPERATOR_LESS: "be less than",
    Operator.OPERATOR_LESS_OR_EQUAL: "be at most",
    Operator.OPERATOR_GREATER: "be greater than",
    Operator.OPERATOR_GREATER_OR_EQUAL: "be at least",
}
_FUNCTIONS = {
    Operator.OPERATOR_EQUAL: pc.equal,
    Operator.OPERATOR_NOT_EQUAL: pc.not_equal,
    Operator.OPERATOR_LESS: pc.less,
    Operator.OPERATOR_LESS_OR_EQUAL: pc.less_equal,
    Operator.OPERATOR_GREATER: pc.greater,
    Operator.OPERATOR_GREATER_OR_EQUAL: pc.greater_equal,
}
_CONSTANTS = {
    "number": _NUMBERS,
    "text": (FieldType.FIELD_TYPE_STRING,),
    "flag": (FieldType.FIELD_TYPE_BOOL,),
    "time": (FieldType.FIELD_TYPE_TIMESTAMP,),
}
Mask = npt.NDArray[np.bool_]
NONE_KNOWN: Mapping[str, "pd.Index[Any]"] = MappingProxyType({})


def warns(rule: Rule | DistributionCheck) -> bool:
    """Return whether rows that break it are accepted all the same."""
    return rule.severity == Severity.SEVERITY_WARN


def columns(rule: Rule) -> str:
    """Return the columns that a rule is about."""
    match rule.WhichOneof("kind"):
        case "compare":
            other = rule.compare.other_column if rule.compare.WhichOneof("with") == "other_column" else ""
            return ",".join(filter(None, (rule.compare.column, other)))
        case "unique":
            return ",".join(rule.unique.columns)
        case _:
            return rule.reference.column


def described(rule: Rule) -> str:
    """Return what a row must do, for people."""
    match rule.WhichOneof("kind"):
        case "compare":
            text = _described(rule.compare)
        case "unique":
            text = f"{columns(rule)} is in the batch already; the first such row counts"
        case _:
            of = rule.reference
            text = f"{of.column} must be in {of.dataset}.{of.other_column}"
    where = " and ".join(_condition(condition) for condition in rule.when)
    return f"{rule.name}: {text}" + (f" where {where}" if where else "")


def broken(rule: Rule, table: pa.Table, known: Mapping[str, "pd.Index[Any]"] = NONE_KNOWN) -> Mask:
    """Return which rows break a rule; `known` has the values of references by the rule's name."""
    concerned = np.ones(table.num_rows, dtype=np.bool_)
    for condition in rule.when:
        concerned &= _mask(_holds(condition, table), null=False)
    match rule.WhichOneof("kind"):
        case "compare":
            return concerned & ~_mask(_holds(rule.compare, table), null=True)
        case "unique":
            # Of the rows that the rule is for only.
            frame = table.select(list(rule.unique.columns)).to_pandas()[concerned]
            twice = np.zeros(table.num_rows, dtype=np.bool_)
            twice[concerned] = (frame.duplicated(keep="first") & frame.notna().all(axis=1)).to_numpy()
            return twice
        case _:
            values = table[rule.reference.column]
            # Without the nulls, which would make integers doubles in pandas.
            unknown = _mask(values.is_valid(), null=False)
            unknown[unknown] = known[rule.name].get_indexer(pd.Index(values.drop_null().to_pandas())) < 0
            return concerned & unknown


def rule_violations(dataset: Dataset) -> list[Violation]:
    """Check the rules and distribution checks of a declaration, all but what other datasets have to say."""
    return list(_violations(dataset))


def reference_violations(dataset: Dataset, others: Mapping[str, Dataset | None]) -> list[Violation]:
    """Check the references of a declaration against the datasets they name, None for one that does not exist."""
    found = []
    for n, rule in enumerate(dataset.rules):
        if rule.WhichOneof("kind") != "reference":
            continue
        of, path = rule.reference, f"rules[{n}].reference"
        other, own = others.get(of.dataset), field_of(dataset, of.column)
        if of.dataset == dataset.name:
            found.append(Violation(f"{path}.dataset", "is this dataset itself; name another one"))
        elif other is None:
            found.append(Violation(f"{path}.dataset", f"no dataset {of.dataset!r}; declare it first"))
        elif (field := field_of(other, of.other_column)) is None:
            found.append(Violation(f"{path}.other_column", _unknown(of.other_column, other)))
        elif of.other_column in protected(other):
            text = f"{of.dataset}.{of.other_column} is a protected attribute, kept in the vault; name another column"
            found.append(Violation(f"{path}.other_column", text))
        elif own is not None and own.type != field.type:
            text = f"{of.column!r} and {of.dataset}.{of.other_column} differ in type; declare them the same"
            found.append(Violation(f"{path}.other_column", text))
    return found


def _violations(dataset: Dataset) -> Iterator[Violation]:
    seen: set[str] = set()
    named: list[tuple[str, Rule | DistributionCheck]] = [(f"rules[{n}]", rule) for n, rule in enumerate(dataset.rules)]
    named += [(f"distribution_checks[{n}]", check) for n, check in enumerate(dataset.distribution_checks)]
    for path, rule in named:
        yield from name_violations(f"{path}.name", rule.name)
        if rule.name in seen:
            yield Violation(f"{path}.name", f"{rule.name!r} is declared twice; rename one")
        seen.add(rule.name)
        if isinstance(rule, DistributionCheck):
            yield from _check_violations(path, rule, dataset)
            continue
        for n, condition in enumerate(rule.when):
            yield from _comparison_violations(f"{path}.when[{n}]", condition, dataset)
        match rule.WhichOneof("kind"):
            case "compare":
                yield from _comparison_violations(f"{path}.compare", rule.compare, dataset)
            case "unique":
                if not rule.unique.columns:
                    yield Violation(f"{path}.unique.columns", "name at least one column")
                for n, column in enumerate(rule.unique.columns):
                    if field_of(dataset, column) is None:
                        yield Violation(f"{path}.unique.columns[{n}]", _unknown(column, dataset))
            case "reference":
                if field_of(dataset, rule.reference.column) is None:
                    yield Violation(f"{path}.reference.column", _unknown(rule.reference.column, dataset))
            case _:
                yield Violation(path, "say what must hold: compare, unique or reference")


def _check_violations(path: str, check: DistributionCheck, dataset: Dataset) -> Iterator[Violation]:
    field, limit = field_of(dataset, check.column), check.WhichOneof("limit")
    if field is None:
        yield Violation(f"{path}.column", _unknown(check.column, dataset))
    if limit is None:
        yield Violation(path, "give a limit: missing_rate, new_categories or population_shift")
        return
    if not 0 <= getattr(check, limit) < float("inf"):
        yield Violation(f"{path}.{limit}", "must be 0 or more")
    counted = (FieldType.FIELD_TYPE_STRING, FieldType.FIELD_TYPE_INT64, FieldType.FIELD_TYPE_BOOL)
    if limit == "new_categories" and field is not None and field.type not in counted:
        yield Violation(f"{path}.{limit}", "only STRING, INT64 and BOOL have categories; use population_shift")


def _comparison_violations(path: str, comparison: Comparison, dataset: Dataset) -> Iterator[Violation]:
    field, given = field_of(dataset, comparison.column), comparison.WhichOneof("with")
    if field is None:
        yield Violation(f"{path}.column", _unknown(comparison.column, dataset))
        return
    if comparison.operator == Operator.OPERATOR_UNSPECIFIED:
        yield Violation(f"{path}.operator", "choose equal, not_equal, less, greater, is_null ...")
    elif comparison.operator in _ALONE:
        if given:
            yield Violation(f"{path}.{given}", "is_null and is_present compare with nothing; remove it")
    elif given is None:
        yield Violation(path, "say what it is compared with: other_column, number, text, flag or time")
    elif given == "other_column":
        other = field_of(dataset, comparison.other_column)
        if other is None:
            yield Violation(f"{path}.other_column", _unknown(comparison.other_column, dataset))
        elif not _comparable(field, other):
            text = f"{field.name!r} and {other.name!r} differ in type and cannot be compared"
            yield Violation(f"{path}.other_column", text)
    elif field.type not in _CONSTANTS[given]:
        yield Violation(f"{path}.{given}", f"{field.name!r} is of another type; give a constant of its type")
    ordered = comparison.operator not in (Operator.OPERATOR_EQUAL, Operator.OPERATOR_NOT_EQUAL, *_ALONE)
    if ordered and field.type == FieldType.FIELD_TYPE_BOOL:
        yield Violation(f"{path}.operator", "true and false have no order; use equal or not_equal")


def _comparable(field: Field, other: Field) -> bool:
    return field.type == other.type or (field.type in _NUMBERS and other.type in _NUMBERS)


def _holds(comparison: Comparison, table: pa.Table) -> pa.ChunkedArray:
    values = table[comparison.column]
    if comparison.operator == Operator.OPERATOR_IS_NULL:
        return values.is_null()
    if comparison.operator == Operator.OPERATOR_IS_PRESENT:
        return values.is_valid()
    return _FUNCTIONS[comparison.operator](values, _other(comparison, table))


def _other(comparison: Comparison, table: pa.Table) -> Any:
    given = comparison.WhichOneof("with")
    if given == "other_column":
        return table[comparison.other_column]
    if given == "time":
        return pa.scalar(comparison.time.ToDatetime(tzinfo=UTC), table[comparison.column].type)
    return pa.scalar(getattr(comparison, str(given)))


def _mask(values: pa.ChunkedArray, *, null: bool) -> Mask:
    mask: Mask = pc.fill_null(values, null).to_numpy().astype(np.bool_)
    return mask


def _described(comparison: Comparison) -> str:
    if comparison.operator in _ALONE:
        return f"{comparison.column} must {_ALONE[comparison.operator]}"
    return f"{comparison.column} must {_WORDS[comparison.operator]} {_shown(comparison)}"


def _condition(comparison: Comparison) -> str:
    if comparison.operator == Operator.OPERATOR_IS_NULL:
        return f"{comparison.column} is missing"
    if comparison.operator == Operator.OPERATOR_IS_PRESENT:
        return f"{comparison.column} is there"
    return f"{comparison.column} {_WORDS[comparison.operator].replace('be ', 'is ').replace('differ', 'differs')} " + (
        _shown(comparison)
    )


def _shown(comparison: Comparison) -> str:
    match comparison.WhichOneof("with"):
        case "number":
            return f"{comparison.number:g}"
        case "time":
            return comparison.time.ToDatetime(tzinfo=UTC).isoformat()
        case "flag":
            return str(comparison.flag).lower()
        case given:
            return str(getattr(comparison, str(given)))


def _unknown(column: str, dataset: Dataset) -> str:
    return f"{dataset.name} has no field {column!r}{did_you_mean(column, [field.name for field in dataset.fields])}"
