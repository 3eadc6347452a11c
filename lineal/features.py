"""Declare feature views in Python: the same messages that a project's YAML makes.

    view = features.view(
        "card-payments", "payments", ["card"],
        features.window("amount_mean_7d", "mean", "7d", column="amount"),
        features.latest("amount_now", "amount"),
    )

Services check what is declared when it is registered.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Literal

from google.protobuf.duration_pb2 import Duration

from lineal.api.features.v1.feature_view_pb2 import (
    Aggregate,
    AggregateFunction,
    Feature,
    FeatureView,
    Lag,
    Latest,
    SinceLast,
)
from lineal.api.features.v1.transform_pb2 import (
    Bins,
    Calendar,
    CalendarPart,
    Clip,
    Cross,
    Difference,
    Impute,
    Product,
    Ratio,
    Scale,
    TextLength,
    Transform,
)
from lineal.project import parse_duration

Span = str | timedelta
Function = Literal[
    "count",
    "sum",
    "mean",
    "std",
    "min",
    "max",
    "share_above",
    "last",
    "first",
    "distinct",
    "rate",
    "share_equals",
]
Part = Literal["minute", "hour", "day_of_week", "day_of_month", "day_of_year", "month", "quarter", "year"]


def view(
    name: str,
    dataset: str,
    entity_keys: Sequence[str],
    *declared: Feature,
    transforms: Iterable[Transform] = (),
    description: str = "",
    owner: str = "",
) -> FeatureView:
    """Declare a feature view."""
    return FeatureView(
        name=name,
        dataset=dataset,
        entity_keys=entity_keys,
        features=declared,
        transforms=transforms,
        description=description,
        owner=owner,
    )


def latest(name: str, column: str, *, max_age: Span | None = None, description: str = "") -> Feature:
    """Declare the latest value, if it is not older than `max_age`."""
    return Feature(name=name, latest=Latest(column=column, max_age=_duration(max_age)), description=description)


def window(
    name: str,
    function: Function,
    window: Span,
    *,
    column: str = "",
    threshold: float = 0.0,
    equals: str = "",
    per: Span | None = None,
    description: str = "",
) -> Feature:
    """Declare an aggregate over a window.

    `threshold`, `equals` and `per` belong to share_above, share_equals and rate.
    """
    aggregate = Aggregate(
        function=AggregateFunction.Value(f"AGGREGATE_FUNCTION_{function.upper()}"),
        column=column,
        window=_duration(window),
        threshold=threshold,
        equals=equals,
        per=_duration(per),
    )
    return Feature(name=name, aggregate=aggregate, description=description)


def lag(name: str, column: str, n: int, *, description: str = "") -> Feature:
    """Declare the nth latest value; 1 is the latest."""
    return Feature(name=name, lag=Lag(column=column, n=n), description=description)


def since_last(name: str, *, description: str = "") -> Feature:
    """Declare the seconds since the latest row."""
    return Feature(name=name, since_last=SinceLast(), description=description)


def ratio(name: str, numerator: str, denominator: str) -> Transform:
    """Declare a number over another."""
    return Transform(name=name, ratio=Ratio(numerator=numerator, denominator=denominator))


def difference(name: str, left: str, right: str) -> Transform:
    """Declare a number less another, or the seconds between two times."""
    return Transform(name=name, difference=Difference(left=left, right=right))


def product(name: str, left: str, right: str) -> Transform:
    """Declare a number times another."""
    return Transform(name=name, product=Product(left=left, right=right))


def cross(name: str, left: str, right: str) -> Transform:
    """Declare two texts as one."""
    return Transform(name=name, cross=Cross(left=left, right=right))


def bins(name: str, column: str, edges: Sequence[float]) -> Transform:
    """Declare the number of a bin."""
    return Transform(name=name, bins=Bins(column=column, edges=edges))


def calendar(name: str, column: str, part: Part, *, zone: str = "") -> Transform:
    """Declare a part of a time, in UTC without a zone."""
    value = CalendarPart.Value(f"CALENDAR_PART_{part.upper()}")
    return Transform(name=name, calendar=Calendar(column=column, part=value, zone=zone))


def text_length(name: str, column: str) -> Transform:
    """Declare the length of a text."""
    return Transform(name=name, text_length=TextLength(column=column))


def impute(name: str, column: str, value: float | str, *, flag: str = "") -> Transform:
    """Declare a constant for null, with one more column that says where it was."""
    declared = Impute(column=column, flag=flag)
    if isinstance(value, str):
        declared.text = value
    else:
        declared.number = value
    return Transform(name=name, impute=declared)


def clip(name: str, column: str, *, minimum: float | None = None, maximum: float | None = None) -> Transform:
    """Declare bounds."""
    return Transform(name=name, clip=Clip(column=column, minimum=minimum, maximum=maximum))


def scale(name: str, column: str, *, center: float, width: float) -> Transform:
    """Declare a scale with constants."""
    return Transform(name=name, scale=Scale(column=column, center=center, width=width))


def _duration(span: Span | None) -> Duration | None:
    if span is None:
        return None
    found = Duration()
    found.FromTimedelta(parse_duration(span) if isinstance(span, str) else span)
    return found
