"""The model card as a user reads it."""

from __future__ import annotations

from tljobs.evaluation.intervals import wilson
from tljobs.records import EvaluationReport, FileInfo, ModelRecord, Replay, classes_digest
from tljobs.serving.card import model_card

CLASSES = ("cat", "a|b <script>", "*dog*")


def _record() -> ModelRecord:
    return ModelRecord(
        run="pets",
        file=FileInfo(key="runs/pets/model/model.keras", size_bytes=1, sha256="f" * 64),
        classes=CLASSES,
        classes_sha256=classes_digest(CLASSES),
        decoder={"id": "tljobs-decode", "version": 1},
        stored_short_side=256,
        crop_size=224,
        image_size=224,
        backbone="small-cnn",
        weights_sha256=None,
        dataset="pets",
        version="abc",
        manifest_sha256="0" * 64,
        checkpoint_step=120,
        scores={},
        replay=Replay(images=9, max_abs_difference=1.5e-7, labels_changed=0),
        environment={"tljobs": "0.1.0"},
        created_utc="2026-01-01T00:00:00+00:00",
        token="t",
    )


def _report(evaluation: str, sha256: str) -> EvaluationReport:
    return EvaluationReport(
        run="pets",
        evaluation=evaluation,
        split=evaluation,
        dataset="pets",
        version="abc",
        model_sha256=sha256,
        images=10,
        classes=CLASSES,
        scores={"accuracy": 0.9, "loss": 0.25},
        intervals={"accuracy": wilson(9, 10)},
        per_class=(),
        confusion=(),
        predictions=FileInfo(key="k", size_bytes=1, sha256="0" * 64),
        created_utc="2026-01-01T00:00:00+00:00",
        token="t",
    )


def test_card_shows_scores_with_intervals_input_and_lineage() -> None:
    card = model_card(_record(), [_report("test", "f" * 64), _report("val", "f" * 64)])
    assert "| test | 10 | accuracy | 0.9000 (0.5958 to 0.9821) |" in card
    assert "| val | 10 | loss | 0.2500 |" in card
    assert "short side resized to 256 pixels" in card
    assert "| dataset | pets@abc |" in card
    assert "largest difference 1.5e-07, 0 labels changed" in card
    assert "$ tljobs predict pets IMAGE" in card


def test_scores_of_another_model_file_are_not_shown() -> None:
    assert "Not evaluated." in model_card(_record(), [_report("val", "e" * 64)])


def test_labels_show_as_they_are_and_cannot_break_the_table() -> None:
    lines = model_card(_record(), []).splitlines()
    assert "| 1 | a\\|b \\<script\\> |" in lines
    assert "| 2 | \\*dog\\* |" in lines
