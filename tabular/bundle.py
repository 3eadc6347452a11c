"""The bundle: everything that a release needs, as one manifest of digests.

The manifest is canonical JSON in the artifact store; its SHA-256 is the bundle's digest. It names its files by their
digests, so one digest fixes model, columns, calibration, threshold, drift reference, guard and card together.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from lineal.api.features.v1.transform_pb2 import Transform

FORMAT = 1
MODEL_FILE = "model.cbm"
CARD_FILE = "card.md"
REFERENCE_FILE = "drift_reference.parquet"
GUARD_FILE = "guard.json"

Problem = Literal["binary", "regression", "multiclass"]


class ManifestInvalid(ValueError):
    """Bytes that are not the manifest of a bundle."""


@dataclass(frozen=True)
class ModelColumn:
    """A column as the model takes it: numeric (null is NaN) or categorical (null is the empty text).

    `source` is `request` for what a client sends, `view` for what is looked up by entity and `transform` for what is
    computed from both. Only what a transform takes may be a `time`.
    """

    name: str
    type: Literal["numeric", "categorical", "time"]
    source: Literal["request", "view", "transform"] = "request"


@dataclass(frozen=True)
class Calibrator:
    """Turns a raw score r into a probability 1 / (1 + exp(-(slope r + intercept))) (Platt 1999).

    The default is the model's own logistic link.
    """

    slope: float = 1.0
    intercept: float = 0.0


@dataclass(frozen=True)
class MetricValue:
    """A metric with its 95 % confidence interval."""

    name: str
    value: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Bundle:
    """A manifest.

    `columns` are in the order of the model's features. `label_key` are the columns that name a row in the label
    dataset. `test_start_micros` is the cut-off of the first untouched row in microseconds since 1970-01-01 UTC, None
    for a static table or an imported model; of a static table `test_share` is the share of rows that are untouched, by
    the lot of their key. `model_digest` is the SHA-256 of the model without what changes from one
    identical fit to the next (its id and time), so that a rebuilt model can be compared. `transforms` are those of the
    feature set, in order, `inputs` the columns that the transforms of this model's columns take. `classes` are the
    names of a multi-class model's classes, by number.
    """

    model: str
    problem: Problem
    columns: tuple[ModelColumn, ...]
    files: Mapping[str, str]
    feature_set: str = ""
    feature_set_version: str = ""
    entity_columns: tuple[str, ...] = ()
    label_key: tuple[str, ...] = ()
    calibrator: Calibrator = field(default_factory=Calibrator)
    threshold: float = 0.5
    run_id: str = ""
    training_set_digest: str = ""
    test_start_micros: int | None = None
    test_share: float | None = None
    model_digest: str = ""
    catboost_version: str = ""
    metrics: tuple[MetricValue, ...] = ()
    transforms: tuple[Transform, ...] = ()
    inputs: tuple[ModelColumn, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def numeric(self) -> list[str]:
        """Names of the numeric columns, in order."""
        return [column.name for column in self.columns if column.type == "numeric"]

    @property
    def categorical(self) -> list[str]:
        """Names of the categorical columns, in order."""
        return [column.name for column in self.columns if column.type == "categorical"]

    @cached_property
    def fetched(self) -> tuple[str, ...]:
        """Names of the columns that a request need not bring: what is looked up or computed, transforms' inputs too."""
        return tuple({column.name: 0 for column in (*self.columns, *self.inputs) if column.source != "request"})

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as plain values."""
        fields = {"format": FORMAT, **asdict(self)}
        if self.test_share is None:
            # Manifests of models with times stay as they were before there was a share.
            del fields["test_share"]
        fields["transforms"] = [
            MessageToDict(transform, preserving_proto_field_name=True) for transform in self.transforms
        ]
        if not self.transforms:
            # Nor do those of models without transforms change.
            del fields["transforms"], fields["inputs"]
        if not self.classes:
            del fields["classes"]
        return fields

    @classmethod
    def from_bytes(cls, data: bytes) -> "Bundle":
        """Read a manifest.

        Raises ManifestInvalid when it is none, or of a format that this version does not know.
        """
        try:
            fields = json.loads(data)
            version = fields.pop("format")
            if version != FORMAT:
                raise ManifestInvalid(f"the manifest has format {version}, this version reads {FORMAT}")
            files = fields["files"]
            if not all(isinstance(text, str) for pair in files.items() for text in pair):
                raise ManifestInvalid("its files are not listed by name and digest")
            fields["columns"] = tuple(ModelColumn(**column) for column in fields["columns"])
            fields["transforms"] = tuple(ParseDict(each, Transform()) for each in fields.get("transforms", ()))
            fields["inputs"] = tuple(ModelColumn(**column) for column in fields.get("inputs", ()))
            fields["calibrator"] = Calibrator(**fields["calibrator"])
            fields["metrics"] = tuple(MetricValue(**metric) for metric in fields["metrics"])
            for name in ("entity_columns", "label_key", "classes"):
                fields[name] = tuple(fields.get(name, ()))
            return cls(**fields)
        except ManifestInvalid:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, ParseError) as error:
            raise ManifestInvalid(f"not the manifest of a bundle: {error}") from error
