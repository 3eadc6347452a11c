"""Scrape `/metrics` as Prometheus does, and read the page strictly, in both formats."""

import re
import urllib.request
from dataclasses import dataclass, field

OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TEXT = "text/plain; version=0.0.4; charset=utf-8"
# What Prometheus 3 sends.
ACCEPT = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
_SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "summary": ("_count", "_sum"),
    "histogram": ("_bucket", "_count", "_sum"),
}
_LABELS = r"(?:\{((?:[a-zA-Z_]\w*=\"(?:[^\"\\\n]|\\[\\n\"])*\",?)*)\})?"
_VALUE = r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|[+-]Inf|NaN)"
_SAMPLE = re.compile(rf"([a-zA-Z_:][\w:]*){_LABELS} {_VALUE}(?: # {_LABELS} {_VALUE} {_VALUE})?")
_LABEL = re.compile(r"([a-zA-Z_]\w*)=\"((?:[^\"\\\n]|\\[\\n\"])*)\"")

Key = tuple[str, frozenset[tuple[str, str]]]


@dataclass
class Page:
    """Samples by name and labels; exemplars, the labels of each, by the same."""

    kinds: dict[str, str] = field(default_factory=dict)
    samples: dict[Key, float] = field(default_factory=dict)
    exemplars: dict[Key, dict[str, str]] = field(default_factory=dict)

    def value(self, sample: str, **labels: str) -> float:
        """Return the sum of the samples of a name that have these labels."""
        found = [
            v for (name, known), v in self.samples.items() if name == sample and labels.items() <= dict(known).items()
        ]
        assert found, f"no {sample} with {labels}"
        return sum(found)


def scrape(address: str, accept: str = ACCEPT) -> Page:
    """Get the page with a real client and read it."""
    request = urllib.request.Request(f"http://{address}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=5) as answer:
        found = answer.headers["Content-Type"]
        assert found == (OPEN_METRICS if "openmetrics" in accept else TEXT)
        return read(answer.read().decode(), open_metrics="openmetrics" in accept)


def read(text: str, *, open_metrics: bool) -> Page:
    """Read a page; AssertionError where it breaks a rule of its format."""
    assert text.endswith("# EOF\n" if open_metrics else "\n")
    page, family, suffixes = Page(), "", tuple[str, ...]()
    for line in text.removesuffix("# EOF\n").splitlines():
        if line.startswith("# HELP "):
            family = line.split(" ", 3)[2]
            assert family not in page.kinds, f"{family} is there twice"
            continue
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == family
            page.kinds[family] = kind
            suffixes = ("",) if kind == "counter" and not open_metrics else _SUFFIXES[kind]
            continue
        sample = _SAMPLE.fullmatch(line)
        assert sample, f"unreadable: {line}"
        name, labels, value, exemplar = sample.group(1), _labels(sample.group(2)), sample.group(3), sample.group(4)
        assert name in {family + suffix for suffix in suffixes}, f"{name} stands under {family}"
        key = name, frozenset(labels.items())
        assert key not in page.samples, f"there twice: {line}"
        page.samples[key] = float(value)
        if exemplar is not None:
            assert open_metrics
            assert name.endswith(("_bucket", "_total"))
            page.exemplars[key] = _labels(exemplar)
    _check_histograms(page)
    return page


def _labels(text: str | None) -> dict[str, str]:
    found = _LABEL.findall(text or "")
    named = {name: re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), value) for name, value in found}
    assert len(named) == len(found)
    return named


def _check_histograms(page: Page) -> None:
    series: dict[Key, list[tuple[float, float]]] = {}
    for (name, labels), value in page.samples.items():
        if page.kinds.get(name.removesuffix("_bucket")) == "histogram" and name.endswith("_bucket"):
            others = frozenset(label for label in labels if label[0] != "le")
            series.setdefault((name, others), []).append((float(dict(labels)["le"]), value))
    for (name, labels), buckets in series.items():
        counts = [count for _, count in buckets]
        assert buckets == sorted(buckets)
        assert counts == sorted(counts)
        assert buckets[-1] == (float("inf"), page.samples[name.removesuffix("_bucket") + "_count", labels])
