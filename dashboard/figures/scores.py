"""Scores of an evaluation as text: values with their 95 % intervals, and a table per class."""

from __future__ import annotations

from dataclasses import dataclass

from tljobs.records import ClassScores, EvaluationReport

_TITLES = {
    "accuracy": "Accuracy",
    "top_5": "Top-5 accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "label_accuracy": "Label accuracy",
    "micro_f1": "Micro F1",
    "macro_f1": "Macro F1",
    "macro_auroc": "Macro AUROC",
    "mean_average_precision": "Mean average precision",
    "loss": "Loss",
}
_NOT_SHARES = frozenset({"loss", "macro_auroc", "mean_average_precision"})


@dataclass(frozen=True)
class Score:
    """A score ready to show; `interval` is empty where there is none."""

    title: str
    value: str
    interval: str


def scores(report: EvaluationReport) -> list[Score]:
    """The scores in a fixed order, known ones first."""
    order = [*(name for name in _TITLES if name in report.scores), *sorted(set(report.scores) - set(_TITLES))]
    return [
        Score(_TITLES.get(name, name), _value(name, report.scores[name]), _interval(name, report)) for name in order
    ]


def class_rows(report: EvaluationReport) -> list[dict[str, str | int | float | None]]:
    """One row per class: label, images, precision, recall, F1 (shares, None where undefined), worst F1 first; for
    several labels per image also the areas under the curves, which need no threshold."""
    ordered = sorted(report.per_class, key=lambda each: (each.f1 is not None, each.f1 or 0.0))
    return [
        {
            "class": each.label,
            "images": each.images,
            "precision": each.precision,
            "recall": each.recall,
            "f1": each.f1,
            **_areas(report, each),
        }
        for each in ordered
    ]


def _areas(report: EvaluationReport, scores_of_class: ClassScores) -> dict[str, float | None]:
    if report.task == "single-label":
        return {}
    return {"auroc": scores_of_class.auroc, "average_precision": scores_of_class.average_precision}


def accuracy_text(scores_of_split: dict[str, float]) -> Score | None:
    """Accuracy of one split of a finished run, with its interval if the run recorded one."""
    if "accuracy" not in scores_of_split:
        return None
    low, high = scores_of_split.get("accuracy_low"), scores_of_split.get("accuracy_high")
    interval = "" if low is None or high is None else _range("accuracy", low, high)
    return Score("Accuracy", _value("accuracy", scores_of_split["accuracy"]), interval)


def _value(name: str, value: float) -> str:
    return f"{value:.4f}" if name in _NOT_SHARES else f"{value:.1%}"


def _interval(name: str, report: EvaluationReport) -> str:
    return _range(name, *report.intervals[name]) if name in report.intervals else ""


def _range(name: str, low: float, high: float) -> str:
    return f"95 %: {_value(name, low)} to {_value(name, high)}"
