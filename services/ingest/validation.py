"""Validate rows against a declared schema with pandera: the one module that imports it."""

import json
import threading
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.compute as pc

from lineal.api.ingest.v1.dataset_pb2 import Dataset, Field, FieldType
from lineal.api.ingest.v1.ingest_service_pb2 import QuarantineReason
from lineal.api.ingest.v1.rules_pb2 import RuleFinding, Severity
from services.ingest import distribution, rules
from services.ingest.surroundings import Surroundings

ROW_NUMBER = "lineal_row_number"
REASONS = "lineal_reasons"
_NULL = "must not be null"
_DUPLICATE = "the row key is in the batch already; the first such row counts"
_FINITE = "must be a finite number"
_MOST_REASONS = 5
# Of two kinds that a field has at once the higher one counts.
_RANKS = {"value": 0, "duplicate": 1, "type": 2}

# By row and field what is wrong, and of which kind: `type` (no value of its type), `duplicate`, `value` or `rule`.
Reasons = dict[int, dict[str, tuple[str, str]]]
_ALONE = Surroundings()


@dataclass(frozen=True)
class Validated:
    """The rows of a batch, parted; `quarantined` has the row's number as sent and its reasons as JSON beside it."""

    accepted: pa.Table
    quarantined: pa.Table
    # Accepted rows that break a rule of severity WARN, and what such rules and distribution checks found.
    warned_rows: int = 0
    findings: Sequence[RuleFinding] = ()


class Validator:
    """The rules of one schema version, made once."""

    def __init__(self, dataset: Dataset) -> None:
        # pandera joins tables of failures, some of them all null; pandas announces for those a change of dtypes that
        # does not matter here.
        warnings.filterwarnings("ignore", message="The behavior of DataFrame concatenation", category=FutureWarning)
        self._row_key = list(dataset.row_key)
        self._rules = list(dataset.rules)
        self._distribution = list(dataset.distribution_checks)
        self._lock = threading.Lock()
        self._schema = pandera.DataFrameSchema(
            {field.name: pandera.Column(nullable=field.nullable, checks=_checks(field)) for field in dataset.fields},
            unique=self._row_key,
            report_duplicates="exclude_first",
        )

    def validate(
        self,
        table: pa.Table,
        unreadable: Mapping[int, Mapping[str, str]] = MappingProxyType({}),
        around: Surroundings = _ALONE,
    ) -> Validated:
        """Part the rows of a table that has the declared columns in their types.

        `unreadable` says by row and column why a value is null: it was of another type. `around` is what rules look at
        beside the rows.
        """
        frame = table.to_pandas()
        reasons: Reasons = {}
        try:
            # pandera does not say that a schema may be used by several threads at once.
            with self._lock:
                self._schema.validate(frame, lazy=True)
        except pandera.errors.SchemaErrors as errors:
            reasons = self._reasons(errors.failure_cases)
        for row, found in unreadable.items():
            reasons.setdefault(row, {}).update({field: (why, "type") for field, why in found.items()})
        warnings_of = []
        for rule in self._rules:
            mask = rules.broken(rule, table, around.values)
            if rules.warns(rule):
                warnings_of.append((rule, mask))
                continue
            for row in np.flatnonzero(mask).tolist():
                _add(reasons, row, rules.columns(rule), rules.described(rule))
        bad = np.zeros(table.num_rows, dtype=np.bool_)
        bad[list(reasons)] = True
        findings = self._judged(table, bad, reasons, around)
        warned = np.zeros(table.num_rows, dtype=np.bool_)
        for rule, mask in warnings_of:
            mask &= ~bad
            warned |= mask
            if count := int(mask.sum()):
                text = rules.described(rule)
                findings.append(RuleFinding(rule=rule.name, severity=rule.severity, message=text, rows=count))
        rows = sorted(reasons)
        texts = [_reasons_json(reasons[row]) for row in rows]
        quarantined = (
            table.filter(pa.array(bad))
            .append_column(ROW_NUMBER, pa.array(rows, type=pa.int64()))
            .append_column(REASONS, pa.array(texts, type=pa.string()))
        )
        accepted = table.filter(pa.array(~bad)) if rows else table
        return Validated(accepted, quarantined, int(warned.sum()), findings)

    def _judged(self, table: pa.Table, bad: rules.Mask, reasons: Reasons, around: Surroundings) -> list[RuleFinding]:
        """Judge the valid rows as a whole; a check that rejects adds its reason to each of them."""
        findings: list[RuleFinding] = []
        if not around.columns:
            return findings
        valid = table.filter(pa.array(~bad))
        rows = np.flatnonzero(~bad).tolist()
        for check in self._distribution:
            text = distribution.judge(check, valid[check.column], around.columns[check.column])
            if not text:
                continue
            severity = Severity.SEVERITY_WARN if rules.warns(check) else Severity.SEVERITY_REJECT
            findings.append(RuleFinding(rule=check.name, severity=severity, message=text, rows=len(rows)))
            if severity == Severity.SEVERITY_REJECT:
                bad[rows] = True
                for row in rows:
                    _add(reasons, row, check.column, text)
        return findings

    def _reasons(self, failures: pd.DataFrame) -> Reasons:
        reasons: Reasons = {}
        cases = zip(failures["index"], failures["column"], failures["check"], strict=True)
        for index, column, check in cases:
            if index is None or index != index:
                # A failure that belongs to no row is a mistake in the rules, not in the data.
                raise RuntimeError(f"rule {check!r} of column {column!r} failed as a whole")
            found = reasons.setdefault(int(index), {})
            if check == "multiple_fields_uniqueness" or column not in self._schema.columns:
                _keep(found, ",".join(self._row_key), _DUPLICATE, "duplicate")
            elif check == "not_nullable":
                _keep(found, str(column), _NULL, "type")
            else:
                _keep(found, str(column), str(check), "type" if check == _FINITE else "value")
        return reasons


def _keep(found: dict[str, tuple[str, str]], field: str, why: str, kind: str) -> None:
    """Note what a check says of a field, whatever another has said of it in whichever order.

    What bars a release is never hidden by what does not: infinity is above every maximum, too.
    """
    before = found.get(field)
    if before is None or _RANKS[kind] > _RANKS[before[1]]:
        found[field] = why, kind
    elif kind == before[1] == "value":
        found[field] = f"{before[0]}; {why}", kind


def _add(reasons: Reasons, row: int, field: str, why: str) -> None:
    found = reasons.setdefault(row, {})
    before = found.get(field)
    # What is wrong with the value itself comes first, and decides on a release.
    found[field] = (f"{before[0]}; {why}", before[1]) if before else (why, "rule")


def reasons_of(text: str) -> list[QuarantineReason]:
    """Read the reasons of one row back."""
    return [QuarantineReason(field=r["field"], message=r["message"], rows=1) for r in json.loads(text)]


def commonest(texts: Sequence[str]) -> list[QuarantineReason]:
    """Return the commonest reasons of quarantined rows, most rows first, at most five."""
    counts = Counter((r.field, r.message) for text in texts for r in reasons_of(text))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST_REASONS]
    return [QuarantineReason(field=field, message=message, rows=rows) for (field, message), rows in ordered]


def kinds_of(text: str) -> set[str]:
    """Return of which kinds the reasons of one row are; `type` where an older file does not say."""
    return {reason.get("kind", "type") for reason in json.loads(text)}


def _reasons_json(reasons: Mapping[str, tuple[str, str]]) -> str:
    listed = [{"field": field, "message": why, "kind": kind} for field, (why, kind) in reasons.items()]
    return json.dumps(listed, ensure_ascii=False)


def _checks(field: Field) -> list[pandera.Check]:
    checks = []
    if field.type == FieldType.FIELD_TYPE_FLOAT64:
        checks.append(pandera.Check(_is_finite, error=_FINITE))
    if field.HasField("minimum"):
        checks.append(pandera.Check.ge(field.minimum, error=f"must be at least {field.minimum:g}"))
    if field.HasField("maximum"):
        checks.append(pandera.Check.le(field.maximum, error=f"must be at most {field.maximum:g}"))
    if field.allowed:
        shown = ", ".join(field.allowed[:10]) + (", ..." if len(field.allowed) > 10 else "")
        checks.append(pandera.Check.isin(list(field.allowed), error=f"must be one of {shown}"))
    if field.pattern:
        checks.append(pandera.Check(_matching(field.pattern), error=f"must match {field.pattern}"))
    return checks


def _is_finite(values: "pd.Series[Any]") -> "pd.Series[bool]":
    return pd.Series(np.isfinite(values.to_numpy(dtype=np.float64)), index=values.index)


def _matching(pattern: str) -> Any:
    # Arrow's RE2 takes linear time whatever the pattern; Python's `re` can be made to hang by one.
    whole = rf"\A(?:{pattern})\z"

    def matches(values: "pd.Series[Any]") -> "pd.Series[bool]":
        found = pc.match_substring_regex(pa.array(values.to_numpy(), type=pa.string()), whole)
        return pd.Series(found.to_numpy(zero_copy_only=False).astype(np.bool_), index=values.index)

    return matches
