"""The model card: a record and its evaluations in, Markdown out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tljobs.records import EvaluationReport, ModelRecord

_HOW_MANY = {"single-label": "one label", "multi-label": "any number of labels"}


def model_card(record: ModelRecord, evaluations: Sequence[EvaluationReport]) -> str:
    """Markdown: what the model is, how to use it, its scores with 95 % intervals, its input, labels and lineage."""
    own = [report for report in evaluations if report.model_sha256 == record.file.sha256]
    sections = [
        f"# Image classifier {record.run}",
        f"A {record.backbone} network fine-tuned on the dataset {record.dataset}, version {record.version}, for"
        f" {len(record.classes)} classes. It gives {_HOW_MANY[record.task]} per image and was not tested on other kinds"
        " of images.",
        "## Use",
        f"```console\n$ tljobs predict {record.run} IMAGE...\n```",
        "Of an exported copy, name the folder instead of the run. Decoding, resizing, scaling and the label order"
        " are part of the model; there is nothing to set.",
        "## Scores",
        _scores(own),
        "## Input",
        f"Image files, decoded by {record.decoder.id} version {record.decoder.version}: RGB, short side resized to"
        f" {record.stored_short_side} pixels, the central {record.crop_size} × {record.crop_size} pixels"
        f" at {record.image_size} × {record.image_size} for the network. `model.keras` itself takes these pixels as"
        f" uint8 (n, {record.image_size}, {record.image_size}, 3) and gives float32 probabilities"
        f" (n, {len(record.classes)}).",
        "## Labels",
        _table(("index", "label"), [(str(index), label) for index, label in enumerate(record.classes)]),
        "## Lineage",
        _lineage(record),
    ]
    return "\n\n".join(sections) + "\n"


def _scores(evaluations: Sequence[EvaluationReport]) -> str:
    if not evaluations:
        return "Not evaluated."
    rows = [
        (report.evaluation, str(report.images), name, _value(value, report.intervals.get(name)))
        for report in sorted(evaluations, key=lambda report: report.evaluation)
        for name, value in report.scores.items()
    ]
    return _table(("evaluation", "images", "score", "value (95 % interval)"), rows)


def _value(value: float, interval: tuple[float, float] | None) -> str:
    return f"{value:.4f}" + (f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else "")


def _lineage(record: ModelRecord) -> str:
    rows = [
        ("run", record.run),
        ("checkpoint", f"step {record.checkpoint_step}"),
        ("dataset", f"{record.dataset}@{record.version}"),
        ("dataset manifest, SHA-256", record.manifest_sha256),
        ("start weights, SHA-256", record.weights_sha256 or "none"),
        ("model.keras, SHA-256", record.file.sha256),
        ("labels, SHA-256", record.classes_sha256),
        (
            "replay of the file on the validation images",
            f"{record.replay.images} images, largest difference {record.replay.max_abs_difference:.1e},"
            f" {record.replay.labels_changed} labels changed",
        ),
        ("created", record.created_utc),
        *sorted(record.environment.items()),
    ]
    return _table(("what", "value"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(_escaped(cell) for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(cell: str) -> str:
    """A cell that shows as it is: labels are users' text."""
    return re.sub(r"([\\`*_{}\[\]<>|~$#&])", r"\\\1", " ".join(cell.split()))
