"""The card of a bundle, in Markdown, from what the run knows."""

from collections.abc import Mapping, Sequence
from typing import Any

from services.trainer.fairness import LEAST_ROWS, Groups
from tabular.bundle import Bundle, MetricValue


def card(
    bundle: Bundle,
    *,
    description: str,
    rows: Mapping[str, int],
    parameters: Mapping[str, Any],
    trees: int,
    importance: Sequence[tuple[str, float]],
    groups: Sequence[Groups] = (),
) -> str:
    """Write the card: what the bundle is, how it was made, what it showed on untouched rows, what to mind.

    `rows` counts the rows of each part of the training set; `importance` is the mean absolute SHAP value per column.
    """
    lines = [
        f"# {bundle.model}",
        "",
        description or "No description was given.",
        "",
        "| | |",
        "|---|---|",
        f"| problem | {bundle.problem} |",
        f"| run | `{bundle.run_id}` |",
        f"| training set | `{bundle.training_set_digest or 'trained elsewhere'}` |",
        f"| feature set | {bundle.feature_set or 'plain columns'} `{bundle.feature_set_version[:12]}` |",
        f"| trees | {trees} |",
        f"| CatBoost | {bundle.catboost_version} |",
        f"| model digest | `{bundle.model_digest}` |",
        *(f"| {part} rows | {count:,} |" for part, count in rows.items()),
        "",
    ]
    if bundle.metrics:
        # Those of groups have an attribute in braces, and tables of their own.
        lines += ["## On untouched rows", "", *_metrics([m for m in bundle.metrics if "{" not in m.name]), ""]
    for attribute in groups:
        lines += [f"## By {attribute.attribute}", "", *_by_group(attribute), ""]
    if bundle.problem == "binary":
        lines += [
            "## Decision",
            "",
            f"A score of {bundle.threshold:.4f} or more decides for class 1 (greatest F1 on the validation rows). "
            f"Scores are 1 / (1 + exp(-({bundle.calibrator.slope:.4f} r + {bundle.calibrator.intercept:.4f}))) "
            "of the raw score r.",
            "",
        ]
    if bundle.problem == "multiclass":
        classes = ", ".join(f"{number} is {name}" for number, name in enumerate(bundle.classes))
        lines += [
            "## Decision",
            "",
            f"The likeliest class is decided for: {classes}. Probabilities are the softmax of the raw scores, with no "
            "calibration after it. The AUC is the mean of each class against the others, the Brier score half the sum "
            "over the classes.",
            "",
        ]
    if importance:
        lines += ["## What moves the score", "", "| column | mean absolute SHAP |", "|---|---|"]
        lines += [f"| {name} | {value:.4f} |" for name, value in importance] + [""]
    if parameters:
        lines += ["## Parameters", "", "| parameter | value |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in sorted(parameters.items())] + [""]
    lines += [
        "## Mind",
        "",
        "Intervals are 95 % percentile intervals of 200 bootstrap resamples of rows; they do not cover a change of the "
        "world after the untouched rows. Null categories count as a category of their own, null numbers as less than "
        "every other.",
        "",
    ]
    return "\n".join(lines)


def _by_group(attribute: Groups) -> list[str]:
    lines = []
    if attribute.groups:
        names = [metric.name for metric in attribute.groups[0].metrics]
        lines += [f"| {attribute.attribute} | rows | {' | '.join(names)} |", "|" + "---|" * (len(names) + 2)]
        for group in attribute.groups:
            cells = (f"{m.value:.3f} ({m.lower:.3f} to {m.upper:.3f})" for m in group.metrics)
            lines.append(f"| {group.value} | {group.rows:,} | {' | '.join(cells)} |")
        lines.append("")
    if attribute.differences:
        lines += [*_metrics(attribute.differences), ""]
    if attribute.suppressed:
        lines += [f"Of {attribute.suppressed} groups with fewer than {LEAST_ROWS} untouched rows nothing is said.", ""]
    return [
        *lines,
        f"The values of {attribute.attribute} are not in the model, the training set or this bundle; they were read "
        "from the vault for this table.",
    ]


def _metrics(metrics: Sequence[MetricValue]) -> list[str]:
    rows = [f"| {metric.name} | {metric.value:.4f} | {metric.lower:.4f} to {metric.upper:.4f} |" for metric in metrics]
    return ["| metric | value | 95 % interval |", "|---|---|---|", *rows]
