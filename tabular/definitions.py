"""Check declarations of datasets, feature views and feature sets, and give them versions by content.

Every check returns all violations it finds, as paths in the message with a text that says what to do; none means valid.
"""

import re
from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from lineal.api.features.v1.feature_set_pb2 import ColumnSource, ColumnType, FeatureColumn, FeatureSet, ViewFeatures
from lineal.api.features.v1.feature_view_pb2 import Feature, FeatureView
from lineal.api.ingest.v1.dataset_pb2 import Dataset, Field, FieldType, Sensitivity
from lineal.versions import version as version
from tabular.feature_rules import NUMBERS, column_type, column_violations, feature_type, feature_violations
from tabular.schema import Violation, did_you_mean, protected, unknown
from tabular.schema import field_of as field_of
from tabular.transform_rules import transform_violations, with_transforms
from tabular.transforms import needed, outputs, sources

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_KEYS = (FieldType.FIELD_TYPE_STRING, FieldType.FIELD_TYPE_INT64, FieldType.FIELD_TYPE_TIMESTAMP)
_PSEUDONYM = "is kept as a pseudonym, which whoever looks features up does not have; use a surrogate key"
_PROTECTED = "is a protected attribute, which the vault keeps for evaluation alone; name another column"
_HIDDEN = {
    Sensitivity.SENSITIVITY_DIRECT_IDENTIFIER: _PSEUDONYM,
    Sensitivity.SENSITIVITY_PROTECTED_ATTRIBUTE: _PROTECTED,
}
_DECLARED_IN = {
    ColumnSource.COLUMN_SOURCE_REQUEST: "request_features",
    ColumnSource.COLUMN_SOURCE_VIEW: "view_features",
    ColumnSource.COLUMN_SOURCE_TRANSFORM: "transforms",
}
_TYPES = {
    FieldType.FIELD_TYPE_STRING: ColumnType.COLUMN_TYPE_CATEGORICAL,
    FieldType.FIELD_TYPE_TIMESTAMP: ColumnType.COLUMN_TYPE_TIME,
}
# Columns that a training set has beside keys and features.
# The classes of a model are in every answer.
_MOST_CLASSES = 1_000
RESERVED = frozenset({"cutoff", "label", "label_time"})


def name_violations(path: str, name: str) -> list[Violation]:
    """Check the name of a declared thing."""
    if _NAME.fullmatch(name):
        return []
    remedy = "use 1 to 100 lowercase letters, digits, hyphens and underscores, beginning with a letter or digit"
    return [Violation(path, f"{name!r} is no name; {remedy}")]


def dataset_violations(dataset: Dataset) -> list[Violation]:
    """Check the declaration of a dataset."""
    found = name_violations("name", dataset.name)
    if not dataset.fields:
        found.append(Violation("fields", "a dataset needs at least one field"))
    seen: set[str] = set()
    for n, field in enumerate(dataset.fields):
        path = f"fields[{n}]"
        if not _COLUMN.fullmatch(field.name):
            remedy = "use letters, digits and underscores, beginning with a letter"
            found.append(Violation(f"{path}.name", f"{field.name!r} is no column name; {remedy}"))
        if field.name in seen:
            found.append(Violation(f"{path}.name", f"{field.name!r} is declared twice; remove one"))
        seen.add(field.name)
        found += _field_violations(path, field)
    if not dataset.row_key:
        found.append(Violation("row_key", "name the columns that together identify a row, at least one"))
    found += _key_violations("row_key", dataset.row_key, dataset)
    found += _key_violations("entity_keys", dataset.entity_keys, dataset)
    if dataset.available_time and not dataset.event_time:
        found.append(Violation("available_time", "needs event_time too; declare it, or leave both out (static table)"))
    found += _protected_violations(dataset)
    for name in ("event_time", "available_time"):
        column = getattr(dataset, name)
        if not column:
            continue
        declared = field_of(dataset, column)
        if declared is None:
            found.append(Violation(name, unknown(column, dataset)))
        elif declared.type != FieldType.FIELD_TYPE_TIMESTAMP or declared.nullable:
            found.append(Violation(name, f"field {column!r} must be of type TIMESTAMP and not nullable"))
    return found


def view_violations(view: FeatureView, dataset: Dataset) -> list[Violation]:
    """Check the declaration of a feature view over its dataset."""
    found = name_violations("name", view.name)
    found += transform_violations("transforms", view.transforms, dataset)
    columns = with_transforms(dataset, view.transforms)
    if not view.entity_keys:
        found.append(Violation("entity_keys", "name the columns that identify the entity, at least one"))
    found += _key_violations("entity_keys", view.entity_keys, dataset)
    found += [
        Violation(f"entity_keys[{n}]", f"{key!r} {why}")
        for n, key in enumerate(view.entity_keys)
        if (why := _hidden(field_of(dataset, key)))
    ]
    if not view.features:
        found.append(Violation("features", "a view needs at least one feature"))
    seen: set[str] = set()
    for n, feature in enumerate(view.features):
        path = f"features[{n}]"
        if not _COLUMN.fullmatch(feature.name):
            remedy = "use letters, digits and underscores, beginning with a letter"
            found.append(Violation(f"{path}.name", f"{feature.name!r} is no feature name; {remedy}"))
        if feature.name in seen:
            found.append(Violation(f"{path}.name", f"{feature.name!r} is declared twice; remove one"))
        seen.add(feature.name)
        found += feature_violations(path, feature, columns)
    return found


def set_violations(
    feature_set: FeatureSet, datasets: Mapping[str, Dataset], views: Mapping[str, FeatureView]
) -> list[Violation]:
    """Check the declaration of a feature set over datasets and views by name."""
    found = name_violations("name", feature_set.name)
    spine = datasets.get(feature_set.spine.dataset)
    if spine is None:
        return [*found, _no_such("spine.dataset", "dataset", feature_set.spine.dataset, datasets)]
    if not feature_set.request_features and not feature_set.view_features and not feature_set.transforms:
        text = "a feature set needs at least one request feature, view feature or transform"
        found.append(Violation("request_features", text))
    for n, request in enumerate(feature_set.request_features):
        path = f"request_features[{n}].column"
        found += column_violations(path, request.column, spine)
    for n, wanted in enumerate(feature_set.view_features):
        path = f"view_features[{n}]"
        view = views.get(wanted.view)
        if view is None:
            found.append(_no_such(f"{path}.view", "feature view", wanted.view, views))
        else:
            found += _wanted_violations(path, wanted, view, spine, datasets[view.dataset])
    if not found:
        found += _on_demand_violations(feature_set, datasets, views)
    if not found:
        columns = columns_of(feature_set, datasets, views)
        # Columns of the spine that stand beside the features in a training set, and names that Lineal gives there.
        beside = {*spine.row_key, *entity_columns(feature_set, views)}
        names = [column.name for column in columns]
        for column in columns:
            looked_up = column.source == ColumnSource.COLUMN_SOURCE_VIEW
            if names.count(column.name) > 1 or (looked_up and column.name in beside):
                text = f"two columns are named {column.name!r}; give one view another prefix"
                found.append(Violation("view_features", text))
            if column.name in RESERVED:
                text = f"{column.name!r} is a name that training sets use themselves; rename it"
                found.append(Violation(_DECLARED_IN[column.source], text))
        found += [
            Violation("spine.dataset", f"{name!r} is a name that training sets use themselves; rename the key")
            for name in sorted(beside & RESERVED)
        ]
    return found + _label_violations(feature_set, spine, datasets)


def columns_of(
    feature_set: FeatureSet, datasets: Mapping[str, Dataset], views: Mapping[str, FeatureView]
) -> list[FeatureColumn]:
    """Return the columns of a valid feature set as a model sees them, in order."""
    columns = _brought_columns(feature_set, datasets, views)
    if not feature_set.transforms:
        return columns
    taken = _taken_by_transforms(feature_set, datasets, columns)
    made = with_transforms(taken, feature_set.transforms)
    looked_up = {column.name for column in columns if column.source == ColumnSource.COLUMN_SOURCE_VIEW}
    for name in [name for transform in feature_set.transforms for name in outputs(transform)]:
        column = FeatureColumn(name=name, type=column_type(made, name), source=ColumnSource.COLUMN_SOURCE_TRANSFORM)
        for source in needed(feature_set.transforms, [name])[1]:
            held = field_of(taken, source)
            assert held is not None
            column.inputs.add(
                name=source,
                type=_TYPES.get(held.type, ColumnType.COLUMN_TYPE_NUMERIC),
                source=ColumnSource.COLUMN_SOURCE_VIEW if source in looked_up else ColumnSource.COLUMN_SOURCE_REQUEST,
            )
        columns.append(column)
    return columns


def _brought_columns(
    feature_set: FeatureSet, datasets: Mapping[str, Dataset], views: Mapping[str, FeatureView]
) -> list[FeatureColumn]:
    """Return the columns that are sent or looked up."""
    spine = datasets[feature_set.spine.dataset]
    columns = [
        FeatureColumn(
            name=request.column,
            type=column_type(spine, request.column),
            source=ColumnSource.COLUMN_SOURCE_REQUEST,
        )
        for request in feature_set.request_features
    ]
    for wanted in feature_set.view_features:
        view = views[wanted.view]
        columns += [
            FeatureColumn(
                name=prefix_of(wanted) + feature.name,
                type=feature_type(feature, with_transforms(datasets[view.dataset], view.transforms)),
                source=ColumnSource.COLUMN_SOURCE_VIEW,
            )
            for feature in wanted_features(wanted, view)
        ]
    return columns


def wanted_features(wanted: ViewFeatures, view: FeatureView) -> list[Feature]:
    """Return the features that a feature set takes from a view, in order."""
    if not wanted.features:
        return list(view.features)
    by_name = {feature.name: feature for feature in view.features}
    return [by_name[name] for name in wanted.features]


def prefix_of(wanted: ViewFeatures) -> str:
    """Return what is put before the names of a view's features."""
    return wanted.prefix or f"{wanted.view}_".replace("-", "_")


def spine_keys(wanted: ViewFeatures, view: FeatureView) -> list[str]:
    """Return the spine's columns that hold a view's entity keys, in the view's order."""
    return [wanted.keys.get(key, key) for key in view.entity_keys]


def entity_columns(feature_set: FeatureSet, views: Mapping[str, FeatureView]) -> list[str]:
    """Return the columns of the spine that hold entity keys, each once, in order."""
    names = (name for wanted in feature_set.view_features for name in spine_keys(wanted, views[wanted.view]))
    return list(dict.fromkeys(names))


def _field_violations(path: str, field: Field) -> list[Violation]:
    found = []
    if field.type == FieldType.FIELD_TYPE_UNSPECIFIED:
        found.append(Violation(f"{path}.type", "give a type: STRING, INT64, FLOAT64, BOOL or TIMESTAMP"))
    numeric = field.type in (FieldType.FIELD_TYPE_INT64, FieldType.FIELD_TYPE_FLOAT64)
    found += [
        Violation(f"{path}.{name}", "only INT64 and FLOAT64 have bounds; remove it")
        for name in ("minimum", "maximum")
        if field.HasField(name) and not numeric
    ]
    if field.HasField("minimum") and field.HasField("maximum") and field.minimum > field.maximum:
        found.append(Violation(f"{path}.minimum", "is above maximum; exchange them"))
    found += [
        Violation(f"{path}.{name}", "only STRING may have it; remove it")
        for name in ("allowed", "pattern")
        if getattr(field, name) and field.type != FieldType.FIELD_TYPE_STRING
    ]
    if field.pattern:
        try:
            # Ingest matches with Arrow's RE2, whose syntax is a little smaller than that of Python's `re`.
            pc.match_substring_regex(pa.array([""]), field.pattern)
        except pa.ArrowInvalid as error:
            found.append(Violation(f"{path}.pattern", f"is no regular expression: {error}"))
    return found


def _key_violations(path: str, keys: Iterable[str], dataset: Dataset) -> list[Violation]:
    found = []
    keys = list(keys)
    for n, key in enumerate(keys):
        field = field_of(dataset, key)
        if field is None:
            found.append(Violation(f"{path}[{n}]", unknown(key, dataset)))
        elif field.type not in _KEYS and field.type != FieldType.FIELD_TYPE_UNSPECIFIED:
            found.append(Violation(f"{path}[{n}]", f"{key!r} cannot be a key; keys are STRING, INT64 or TIMESTAMP"))
        elif path == "row_key" and field.nullable:
            found.append(Violation(f"{path}[{n}]", f"{key!r} is nullable; a row key never is"))
        if keys.index(key) != n:
            found.append(Violation(f"{path}[{n}]", f"{key!r} is named twice; remove one"))
    return found


def _protected_violations(dataset: Dataset) -> list[Violation]:
    """Refuse protected attributes where the rows that are kept would have to have them."""
    named = [(f"row_key[{n}]", key) for n, key in enumerate(dataset.row_key)]
    named += [(f"entity_keys[{n}]", key) for n, key in enumerate(dataset.entity_keys)]
    named += [("event_time", dataset.event_time), ("available_time", dataset.available_time)]
    named += [(f"distribution_checks[{n}].column", check.column) for n, check in enumerate(dataset.distribution_checks)]
    return [Violation(path, f"{name!r} {_PROTECTED}") for path, name in named if name in protected(dataset)]


def _hidden(field: Field | None) -> str:
    """Return why nothing can be looked up by a column, nothing where it can be."""
    return _HIDDEN.get(field.sensitivity, "") if field is not None else ""


def _wanted_violations(
    path: str, wanted: ViewFeatures, view: FeatureView, spine: Dataset, dataset: Dataset
) -> list[Violation]:
    found = []
    names = [feature.name for feature in view.features]
    for n, name in enumerate(wanted.features):
        if name not in names:
            hint = did_you_mean(name, names)
            found.append(Violation(f"{path}.features[{n}]", f"view {view.name!r} has no feature {name!r}{hint}"))
    for key in wanted.keys:
        if key not in view.entity_keys:
            hint = did_you_mean(key, view.entity_keys)
            found.append(Violation(f"{path}.keys", f"view {view.name!r} has no entity key {key!r}{hint}"))
    for key, column in zip(view.entity_keys, spine_keys(wanted, view), strict=True):
        held, declared = field_of(spine, column), field_of(dataset, key)
        if held is None:
            hint = f"{unknown(column, spine)}; map it in keys"
            found.append(Violation(f"{path}.keys", f"entity key {key!r} of view {view.name!r}: {hint}"))
        elif declared is not None and held.type != declared.type:
            text = f"{column!r} of {spine.name} and {key!r} of {dataset.name} differ in type; declare them the same"
            found.append(Violation(f"{path}.keys", text))
        if why := _hidden(held):
            found.append(Violation(f"{path}.keys", f"{column!r} of {spine.name} {why}"))
    if dataset.event_time and not spine.event_time:
        text = f"{spine.name} has no event_time, so rows of {dataset.name} cannot be cut by it; use static views only"
        found.append(Violation(f"{path}.view", text))
    return found


def _label_violations(feature_set: FeatureSet, spine: Dataset, datasets: Mapping[str, Dataset]) -> list[Violation]:
    label = feature_set.label
    dataset = datasets.get(label.dataset)
    if dataset is None:
        return [_no_such("label.dataset", "dataset", label.dataset, datasets)]
    found = []
    if not label.key:
        found.append(Violation("label.key", "name the columns that the spine and the label share, at least one"))
    for n, key in enumerate(label.key):
        held, declared = field_of(spine, key), field_of(dataset, key)
        for owner, field in ((spine, held), (dataset, declared)):
            if field is None:
                found.append(Violation(f"label.key[{n}]", unknown(key, owner)))
        if held is not None and declared is not None and held.type != declared.type:
            text = f"{key!r} differs in type between {spine.name} and {dataset.name}; declare it the same"
            found.append(Violation(f"label.key[{n}]", text))
        found += [
            Violation(f"label.key[{n}]", f"{key!r} of {owner.name} {_PROTECTED}")
            for owner in (spine, dataset)
            if key in protected(owner)
        ]
    target = field_of(dataset, label.column)
    rule = label.WhichOneof("rule")
    if target is None:
        found.append(Violation("label.column", unknown(label.column, dataset)))
    elif label.column in protected(dataset):
        found.append(Violation("label.column", f"{label.column!r} {_PROTECTED}"))
    elif rule not in ("equals", "classes") and target.type not in NUMBERS:
        found.append(Violation("label.column", f"{label.column!r} is not a number; use the rule `equals` or `classes`"))
    if rule is None or (rule == "value" and not label.value):
        found.append(
            Violation("label", "say how the column becomes the label: greater_than, equals, classes or value: true")
        )
    values = label.classes.values
    if rule == "classes" and not 2 <= len(set(values)) == len(values) <= _MOST_CLASSES:
        found.append(Violation("label.classes.values", f"name 2 to {_MOST_CLASSES} classes, each once"))
    return found


def _taken_by_transforms(
    feature_set: FeatureSet, datasets: Mapping[str, Dataset], columns: Iterable[FeatureColumn]
) -> Dataset:
    """Return what a feature set's transforms may take, as a dataset: fields of the spine and features of views."""
    taken = Dataset()
    taken.CopyFrom(datasets[feature_set.spine.dataset])
    for column in columns:
        if column.source == ColumnSource.COLUMN_SOURCE_VIEW:
            text = column.type == ColumnType.COLUMN_TYPE_CATEGORICAL
            kind = FieldType.FIELD_TYPE_STRING if text else FieldType.FIELD_TYPE_FLOAT64
            taken.fields.append(Field(name=column.name, type=kind, nullable=True))
    return taken


def _on_demand_violations(
    feature_set: FeatureSet, datasets: Mapping[str, Dataset], views: Mapping[str, FeatureView]
) -> list[Violation]:
    if not feature_set.transforms:
        return []
    spine = datasets[feature_set.spine.dataset]
    columns = _brought_columns(feature_set, datasets, views)
    taken = _taken_by_transforms(feature_set, datasets, columns)
    found = transform_violations("transforms", feature_set.transforms, taken)
    names = [field.name for field in taken.fields]
    for n, transform in enumerate(feature_set.transforms):
        path = f"transforms[{n}].{transform.WhichOneof('kind')}"
        for source in sources(transform):
            if names.count(source) > 1:
                text = f"{source!r} is a field of {spine.name} and a feature of a view; give the view another prefix"
                found.append(Violation(path, text))
            if source == feature_set.label.column and spine.name == feature_set.label.dataset:
                text = f"{source!r} is the label, which is not known when a prediction is asked for; leave it out"
                found.append(Violation(path, text))
    return found


def _no_such(path: str, kind: str, name: str, known: Iterable[str]) -> Violation:
    return Violation(path, f"no {kind} {name!r}{did_you_mean(name, known)}; declare it first")
