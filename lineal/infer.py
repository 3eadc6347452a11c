"""Propose the declaration of a dataset from some of its rows, for a person to read, change and apply.

Nothing is declared here. Bounds and sets are proposed only where rows that come later are unlikely to break
them; columns that look personal are marked, by their names and by the shape of their values, and what was seen in
them is not repeated.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

_MOST_CATEGORIES = 20
_ROWS_PER_CATEGORY = 50
_LEAST_OF_CATEGORY = 5
_LEAST_ROWS = 100
_MOST_KEY_COLUMNS = 8
_LIKELY = 0.8
_SHAPE_ROWS = 10_000
# Ranges that do not depend on what was seen.
_CALENDAR = {"month": (1, 12), "hour": (0, 23), "minute": (0, 59), "day_of_week": (0, 7), "weekday": (0, 7)}
_DIRECT = re.compile(
    r"(^|_)(e?mail|phone|mobile|telephone|fax|ssn|social_security|passport|iban|account_number|card_number|credit_card|"
    r"(first|last|full|middle|sur|given|family|customer|patient|person|user)_?name|surname|address|street|ip|"
    r"ip_address|tax_id|national_id|driver_licen[cs]e|device_id)($|_)"
)
_PROTECTED = re.compile(
    r"(^|_)(gender|sex|race|ethnicity|ethnic|religion|disability|orientation|marital_status|nationality|pregnan\w*|"
    r"political\w*|union_member\w*)($|_)"
)
_QUASI = re.compile(r"(^|_)(zip|zip_?code|post_?code|postal_code|birth_?date|date_of_birth|dob|birth_year|age)($|_)")
_SHAPES: Mapping[str, str] = {
    "an e-mail address": r"^[^@\s]+@[^@\s]+\.[A-Za-z]{2,}$",
    "an IP address": r"^(\d{1,3}\.){3}\d{1,3}$",
    "an IBAN": r"^[A-Z]{2}\d{2}[A-Z0-9]{11,30}$",
    "a US social security number": r"^\d{3}-\d{2}-\d{4}$",
    "a phone number": r"^\+\d[\d ()/-]{6,18}\d$|^\(?\d{3}\)?[ -]\d{3}-\d{4}$",
    "a payment card number": r"^(\d{4}[ -]){3}\d{4}$",
}
_EVENT = re.compile(r"event|occurred|happened|start|time|date|timestamp")
_AVAILABLE = re.compile(r"available|recorded|received|loaded|published|known|told")
_KEY = re.compile(r"(^|_)(id|key|number|no|uuid)$", re.IGNORECASE)


@dataclass
class _Column:
    name: str
    values: pa.ChunkedArray
    type: str
    rules: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def nullable(self) -> bool:
        return bool(self.values.null_count)

    @property
    def direct(self) -> bool:
        return self.rules.get("sensitivity") == "direct_identifier"


def propose(name: str, table: pa.Table) -> str:
    """Return a declaration as YAML with comments that say what to look at; `read_project` reads it."""
    columns = [_column(text, table[text]) for text in table.column_names]
    key, key_note = _row_key(columns, table)
    event, available = _times(columns)
    entities = [c.name for c in columns if c.type in ("string", "int64") and _KEY.search(c.name) and not c.direct]
    lines = [
        f"# Proposed from {table.num_rows:,} rows. Read it, correct it, say what things mean, then `lineal apply`.",
        "kind: Dataset",
        f"name: {_text(name)}",
        "description: # what is a row?",
        "owner: # who answers for it?",
        f"row_key: {_flow(key)}{key_note}",
        f"entity_keys: {_flow(entities)}  # what the rows are about: columns that features are looked up by",
    ]
    if event:
        lines.append(f"event_time: {_flow(event)}  # when it happened")
    lines += [f"available_time: {_flow(available)}  # when the source could tell"] if available else []
    stamps = [column.name for column in columns if column.type == "timestamp"]
    if stamps:
        lines.append(f"# times to choose from: {_flow(stamps)}")
    lines.append("fields:")
    for column in columns:
        if column.direct and column.type != "string":
            column.notes.append(f"is {column.type} here: send it as text, it is kept as a pseudonym")
            column.type = "string"
            column.rules = {"sensitivity": "direct_identifier"}
        said: dict[str, Any] = {"name": column.name, "type": column.type}
        said |= {"nullable": True} if column.nullable else {}
        note = f"  # {'; '.join(column.notes)}" if column.notes else ""
        lines.append(f"  - {_flow(said | column.rules)}{note}")
    return "\n".join(lines) + "\n"


def _column(name: str, values: pa.ChunkedArray) -> _Column:
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = values.type
    if pa.types.is_floating(kind):
        # NaN counts as missing at the door.
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, kind), values)
    column = _Column(name, values, _type(kind))
    if pa.types.is_timestamp(kind) and not kind.tz:
        column.notes.append("has no time zone: localise it before sending")
    elif pa.types.is_date(kind) or pa.types.is_time(kind):
        column.notes.append(f"is {kind}: send text, or instants with a time zone and type timestamp")
    elif column.type == "string" and not _is_text(kind):
        column.notes.append(f"is {'empty' if pa.types.is_null(kind) else kind}: check the type")
    _mark(column)
    if column.type in ("int64", "float64"):
        _bound(column)
    elif column.type == "string" and _is_text(kind) and "sensitivity" not in column.rules:
        _categories(column)
    return column


def _type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind):
        return "int64"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "float64"
    return "timestamp" if pa.types.is_timestamp(kind) else "string"


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _mark(column: _Column) -> None:
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", column.name).lower()
    shape = _shape(column.values) if _is_text(column.values.type) else ""
    if shape:
        column.rules["sensitivity"] = "direct_identifier"
        column.notes.append(f"looks like {shape}")
    elif _DIRECT.search(name):
        column.rules["sensitivity"] = "direct_identifier"
        column.notes.append("named like something that identifies a person")
    elif _PROTECTED.search(name):
        column.rules["sensitivity"] = "protected_attribute"
        column.notes.append("named like a protected attribute: never a feature")
    elif _QUASI.search(name):
        column.rules["sensitivity"] = "quasi_identifier"
        column.notes.append("may identify a person together with others")


def _shape(values: pa.ChunkedArray) -> str:
    present = values.slice(0, _SHAPE_ROWS).drop_null()
    for what, pattern in _SHAPES.items():
        if len(present) and pc.mean(pc.match_substring_regex(present, pattern)).as_py() >= _LIKELY:
            return what
    return ""


def _bound(column: _Column) -> None:
    ends = pc.min_max(column.values).as_py()
    if ends["min"] is None:
        return
    calendar = _CALENDAR.get(column.name.lower())
    if calendar and calendar[0] <= ends["min"] and ends["max"] <= calendar[1]:
        column.rules |= {"minimum": calendar[0], "maximum": calendar[1]}
    elif ends["min"] >= 0 and len(column.values) - column.values.null_count >= _LEAST_ROWS:
        column.rules["minimum"] = 0
    if "sensitivity" not in column.rules:
        column.notes.append(f"{ends['min']:g} to {ends['max']:g} seen")


def _categories(column: _Column) -> None:
    present = column.values.drop_null()
    counts = pc.value_counts(present)
    few = 2 <= len(counts) <= _MOST_CATEGORIES and len(present) >= _ROWS_PER_CATEGORY * len(counts)
    values = counts.field("values").to_pylist()
    # An empty text counts as missing at the door.
    if few and pc.min(counts.field("counts")).as_py() >= _LEAST_OF_CATEGORY and all(v.strip() for v in values):
        column.rules["allowed"] = sorted(values)
        column.notes.append("all that was seen; remove it where others may come")


def _row_key(columns: list[_Column], table: pa.Table) -> tuple[list[str], str]:
    able = [c for c in columns if c.type in ("string", "int64", "timestamp") and not c.nullable and not c.direct]
    if table.num_rows < 2 or not able:
        return [], "  # which columns identify a row? too few rows to tell"
    single = [c for c in able if pc.count_distinct(c.values).as_py() == table.num_rows]
    if single:
        best = min(single, key=lambda column: not _KEY.search(column.name))
        others = [column.name for column in single if column is not best]
        return [best.name], f"  # unique too: {', '.join(others)}" if others else ""
    for count in (2, 3):
        for chosen in combinations([column.name for column in able[:_MOST_KEY_COLUMNS]], count):
            if table.select(list(chosen)).group_by(list(chosen)).aggregate([]).num_rows == table.num_rows:
                return list(chosen), "  # unique together in these rows: is it so in all?"
    return [], "  # no columns are unique together: which identify a row?"


def _times(columns: Iterable[_Column]) -> tuple[str, str]:
    stamps = [column for column in columns if column.type == "timestamp" and not column.nullable]
    late = [column for column in stamps if _AVAILABLE.search(column.name.lower())]
    early = [column for column in stamps if column not in late]
    named = [column for column in early if _EVENT.search(column.name.lower())] or early
    event = next((column for column in named if "event" in column.name.lower()), named[0] if named else None)
    if event is None:
        return "", ""
    known = next((column.name for column in late), "")
    return event.name, known


def _flow(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
    return text.removesuffix("\n...\n").strip()


def _text(value: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", value.lower()).strip("-_") or "dataset"
