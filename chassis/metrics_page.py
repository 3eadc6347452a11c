"""The page that Prometheus reads: its own text format, or OpenMetrics, which has exemplars."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from opentelemetry.sdk.metrics.export import Histogram, HistogramDataPoint, Metric

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
Labels = Mapping[str, str]


@dataclass(frozen=True)
class Exemplar:
    """A measurement that a trace explains; `at` is in seconds since 1970."""

    trace_id: str
    span_id: str
    value: float
    at: float


@dataclass(frozen=True)
class Sample:
    """A number with its labels; `suffix` is what its line has after the family's name."""

    value: float
    labels: Labels
    suffix: str = ""
    exemplar: Exemplar | None = None


@dataclass(frozen=True)
class Family:
    """Samples of one name. Of a counter the name is without `_total`, which its samples have for a suffix."""

    name: str
    kind: Literal["counter", "gauge", "histogram", "summary"]
    description: str
    samples: list[Sample]


def counter(name: str, description: str, values: Iterable[tuple[Labels, float]]) -> Family:
    """Return a family that only grows."""
    return Family(name, "counter", description, [Sample(value, labels, "_total") for labels, value in values])


def gauge(name: str, description: str, values: Iterable[tuple[Labels, float]]) -> Family:
    """Return a family that goes up and down."""
    return Family(name, "gauge", description, [Sample(value, labels) for labels, value in values])


def points_of(metric: Metric | None) -> list[HistogramDataPoint]:
    """Return the series of `Durations.metric`."""
    return list(metric.data.data_points) if metric is not None and isinstance(metric.data, Histogram) else []


def texts_of(point: HistogramDataPoint) -> Mapping[str, str]:
    """Return the attributes of a series as texts."""
    return {name: str(value) for name, value in (point.attributes or {}).items()}


def histogram(
    name: str, description: str, points: Iterable[HistogramDataPoint], labels: Callable[[Mapping[str, str]], Labels]
) -> Family:
    """Return the family of OpenTelemetry's histograms; `labels` names them from their attributes."""
    samples = [sample for point in points for sample in _histogram_samples(point, labels(texts_of(point)))]
    return Family(name, "histogram", description, samples)


def summary(
    name: str, description: str, points: Iterable[HistogramDataPoint], labels: Callable[[Mapping[str, str]], Labels]
) -> Family:
    """Return counts and sums of OpenTelemetry's histograms, without their buckets."""
    samples = [sample for point in points for sample in _totals(point, labels(texts_of(point)))]
    return Family(name, "summary", description, samples)


def render(families: Iterable[Family], *, open_metrics: bool) -> str:
    """Write the page. Only OpenMetrics has exemplars and an end that can be told from a page cut short."""
    lines = [line for family in families if family.samples for line in _lines(family, open_metrics)]
    if open_metrics:
        lines.append("# EOF")
    return "\n".join(lines) + "\n"


def _lines(family: Family, open_metrics: bool) -> Iterator[str]:
    # The text format types the name that the samples have.
    name = family.name + ("_total" if family.kind == "counter" and not open_metrics else "")
    yield f"# HELP {name} {_escaped(family.description)}"
    yield f"# TYPE {name} {family.kind}"
    for sample in family.samples:
        line = f"{family.name}{sample.suffix}{_braces(sample.labels)} {_number(sample.value)}"
        if open_metrics and (known := sample.exemplar):
            traced = _braces({"trace_id": known.trace_id, "span_id": known.span_id})
            line += f" # {traced} {_number(known.value)} {known.at:.3f}"
        yield line


def _histogram_samples(point: HistogramDataPoint, labels: Labels) -> Iterator[Sample]:
    exemplars = {
        bisect_left(point.explicit_bounds, known.value): Exemplar(
            f"{known.trace_id:032x}", f"{known.span_id:016x}", known.value, known.time_unix_nano / 1e9
        )
        for known in point.exemplars
    }
    bounds = [*(_number(float(bound)) for bound in point.explicit_bounds), "+Inf"]
    for bucket, (bound, count) in enumerate(zip(bounds, accumulate(point.bucket_counts), strict=True)):
        yield Sample(count, {**labels, "le": bound}, "_bucket", exemplars.get(bucket))
    yield from _totals(point, labels)


def _totals(point: HistogramDataPoint, labels: Labels) -> Iterator[Sample]:
    yield Sample(point.count, labels, "_count")
    yield Sample(point.sum, labels, "_sum")


def _braces(labels: Labels) -> str:
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return "NaN" if value != value else repr(value)
