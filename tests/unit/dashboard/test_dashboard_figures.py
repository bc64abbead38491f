"""The numbers behind the pictures, against examples computed by hand."""

from __future__ import annotations

import datetime
from typing import ClassVar

import pyarrow as pa
import pytest
from dashboard_store import CLASSES

from dashboard.figures import confusion, curves, gallery, history, runs_table, scores, top_labels
from tljobs.records import ClassScores, EpochRow, EvaluationReport, Event, FileInfo, RunRecord, StepRow
from tljobs.runs import Run

EIGHT = datetime.datetime(2026, 11, 30, 8, 0, tzinfo=datetime.UTC)


def event(kind: str, minute: int, *, attempt: int = 0, step: int = 0, **data: object) -> Event:
    return Event.model_validate(
        {"seq": 0, "kind": kind, "attempt": attempt, "step": step, "data": data, "token": "t"}
        | {"time_utc": (EIGHT + datetime.timedelta(minutes=minute)).isoformat()}
    )


def run_of(*events: Event, name: str = "a-run", status: str = "finished", **spec: object) -> Run:
    record = RunRecord(
        run=name,
        spec={"backbone": "lite0", "unfreeze": "2", "learning_rate": 0.001, "epochs": 5, **spec},
        request_sha256="",
        dataset="flowers",
        version="v1",
        manifest_sha256="",
        classes=CLASSES,
        classes_sha256="",
        environment={},
        created_utc=EIGHT.isoformat(),
        token="t",
    )
    return Run(record, events, status)  # type: ignore[arg-type]


def epoch(step: int, phase: str = "head", *, val_accuracy: float = 0.5, val_loss: float = 1.0) -> EpochRow:
    return EpochRow(
        phase=phase,
        epoch=1,
        step=step,
        images=10,
        train_loss=0.9,
        train_accuracy=0.6,
        val_loss=val_loss,
        val_accuracy=val_accuracy,
        learning_rate=0.1,
        wall_s=1,
        wait_s=0,
    )


def step_row(step: int, phase: str = "head", loss: float = 1.0) -> StepRow:
    return StepRow(step=step, phase=phase, epoch=1, loss=loss, accuracy=0.5, learning_rate=0.1, grad_norm=1)


def report_of(matrix: tuple[tuple[int, ...], ...], classes: tuple[str, ...]) -> EvaluationReport:
    return EvaluationReport(
        run="a-run",
        evaluation="val",
        split="val",
        dataset="flowers",
        version="v1",
        model_sha256="",
        images=sum(map(sum, matrix)),
        classes=classes,
        scores={"zeta": 0.25, "loss": 0.5, "accuracy": 0.75},
        intervals={"accuracy": (0.301, 0.954)},
        per_class=(
            ClassScores(label="cat", images=2, precision=1.0, recall=0.5, f1=0.667),
            ClassScores(label="dog", images=2, precision=0.667, recall=1.0, f1=0.8),
            ClassScores(label="emu", images=0, precision=None, recall=None, f1=None),
        ),
        confusion=matrix,
        predictions=FileInfo(key="", size_bytes=0, sha256=""),
        created_utc="",
        token="",
    )


class TestRunsTable:
    def test_a_row_holds_what_the_run_recorded(self) -> None:
        scored = {"val": {"accuracy": 0.75}, "test": {"accuracy": 0.5}}
        run = run_of(event("attempt_started", 1, attempt=1), event("finished", 4, scores=scored))
        (row,) = runs_table.run_rows([run], EIGHT)
        assert (row.backbone, row.unfreeze, row.learning_rate) == ("lite0", "2", 0.001)
        assert (row.val_accuracy, row.test_accuracy) == (0.75, 0.5)
        assert row.started == EIGHT + datetime.timedelta(minutes=1)
        assert row.duration_s == 180

    def test_duration_leaves_out_the_time_between_attempts(self) -> None:
        run = run_of(
            event("attempt_started", 0, attempt=1),
            event("checkpoint", 2, attempt=1),
            event("attempt_started", 60, attempt=2),
            event("finished", 65),
        )
        assert runs_table.duration_s(run, EIGHT) == (2 + 5) * 60

    def test_a_running_run_counts_up_to_now(self) -> None:
        run = run_of(event("attempt_started", 0, attempt=1), status="running")
        assert runs_table.duration_s(run, EIGHT + datetime.timedelta(seconds=42)) == 42

    def test_a_run_that_never_started_took_no_time(self) -> None:
        (row,) = runs_table.run_rows([run_of(status="created")], EIGHT)
        assert (row.duration_s, row.started, row.val_accuracy) == (0, EIGHT, None)

    def test_filters_narrow_by_status_dataset_and_every_word(self) -> None:
        rows = runs_table.run_rows([run_of(name="red-one"), run_of(name="red-two", status="failed")], EIGHT)

        def names(statuses: list[str], datasets: list[str], text: str) -> list[str]:
            return [row.run for row in runs_table.filter_rows(rows, statuses, datasets, text)]

        assert names([], [], "") == ["red-one", "red-two"]
        assert names(["failed"], [], "") == ["red-two"]
        assert names([], ["flowers"], "RED lite0 one") == ["red-one"]
        assert names([], ["other"], "") == []

    @pytest.mark.parametrize(
        ("seconds", "text"), [(42.4, "42 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (3599.7, "1 h 00 min")]
    )
    def test_duration_text(self, seconds: float, text: str) -> None:
        assert runs_table.duration_text(seconds) == text


class TestCurves:
    EPOCHS = (
        epoch(10, val_accuracy=0.4, val_loss=0.9),
        epoch(20, "unfrozen", val_accuracy=0.7, val_loss=0.8),
        epoch(30, "unfrozen", val_accuracy=0.7, val_loss=0.5),
    )
    STEPS = tuple(step_row(step, "head" if step <= 10 else "unfrozen", loss=float(step)) for step in range(1, 31))

    def test_by_epoch_each_epoch_is_a_point_of_each_line(self) -> None:
        lines = curves.learning_curves(self.STEPS, self.EPOCHS, [], "val_accuracy", "epoch")
        assert [(p.x, p.value) for p in lines.loss if p.part == "val"] == [(1, 0.9), (2, 0.8), (3, 0.5)]
        assert [(p.x, p.value) for p in lines.accuracy if p.part == "train"] == [(1, 0.6), (2, 0.6), (3, 0.6)]

    def test_by_step_the_training_line_is_of_single_steps(self) -> None:
        lines = curves.learning_curves(self.STEPS, self.EPOCHS, [], "val_accuracy", "step")
        train = [(p.x, p.value) for p in lines.loss if p.part == "train"]
        assert train == [(step, step) for step in range(1, 31)]
        assert [p.x for p in lines.loss if p.part == "val"] == [10, 20, 30]

    def test_phase_bands_touch_and_end_where_the_phase_ended(self) -> None:
        by_step = curves.learning_curves(self.STEPS, self.EPOCHS, [], "val_accuracy", "step").bands
        assert [(b.phase, b.start, b.end, b.middle) for b in by_step] == [("head", 0, 10, 5), ("unfrozen", 10, 30, 20)]
        by_epoch = curves.learning_curves(self.STEPS, self.EPOCHS, [], "val_accuracy", "epoch").bands
        assert [(b.start, b.end) for b in by_epoch] == [(0, 1), (1, 3)]

    def test_attempts_after_the_first_are_marked_where_they_resumed(self) -> None:
        events = [event("attempt_started", 0, attempt=1), event("attempt_started", 9, attempt=2, step=15)]
        marks = curves.learning_curves(self.STEPS, self.EPOCHS, events, "val_accuracy", "epoch").marks
        assert [(m.kind, m.x) for m in marks] == [("resume", 1.5), ("best", 2.0)]

    def test_the_best_epoch_is_the_first_of_the_monitored_metric(self) -> None:
        by_accuracy = curves.best_epoch(self.EPOCHS, "val_accuracy")
        by_loss = curves.best_epoch(self.EPOCHS, "val_loss")
        assert by_accuracy and by_accuracy.step == 20
        assert by_loss and by_loss.step == 30
        assert curves.best_epoch([], "val_loss") is None

    def test_values_that_are_no_numbers_are_not_drawn(self) -> None:
        steps = [step_row(1, loss=1.0), step_row(2, loss=float("nan"))]
        lines = curves.learning_curves(steps, [], [], "val_accuracy", "step")
        assert [p.x for p in lines.loss] == [1]

    def test_long_lines_are_thinned_to_means(self) -> None:
        points = [curves.Point(float(x), "train", float(x)) for x in range(1, 11)]
        assert curves.thinned(points, 5) == [curves.Point(x, "train", x - 0.5) for x in (2.0, 4.0, 6.0, 8.0, 10.0)]
        assert curves.thinned(points, 10) == points

    @pytest.mark.parametrize("axis", ["epoch", "step"])
    def test_charts_hold_the_points(self, axis: curves.Axis) -> None:
        lines = curves.learning_curves(self.STEPS, self.EPOCHS, [], "val_accuracy", axis)
        layers = curves.loss_chart(lines).to_dict()["layer"]
        assert len(layers[-1]["data"]["values"]) == len(lines.loss)
        assert curves.accuracy_chart(lines).to_dict()["layer"][0]["data"]["values"][0]["phase"] == "head"

    def test_a_chart_without_anything_is_valid(self) -> None:
        lines = curves.learning_curves([], [], [], "val_accuracy", "epoch")
        assert len(curves.loss_chart(lines).to_dict()["layer"]) == 1


class TestConfusion:
    REPORT = report_of(((1, 1, 0), (0, 2, 0), (0, 0, 0)), ("cat", "dog", "emu"))

    def test_cells_of_four_images(self) -> None:
        matrix = confusion.confusion(self.REPORT)
        found = {(cell.true_label, cell.predicted_label): (cell.count, cell.share) for cell in matrix.cells}
        assert found[("cat", "cat")] == (1, 0.5)
        assert found[("cat", "dog")] == (1, 0.5)
        assert found[("dog", "dog")] == (2, 1.0)
        assert found[("emu", "emu")] == (0, 0.0)
        assert (len(found), matrix.left_out, matrix.max_count) == (9, 0, 2)

    def test_of_many_classes_the_most_confused_stay_in_class_order(self) -> None:
        report = report_of(((5, 0, 0), (0, 5, 3), (0, 1, 5)), ("a", "b", "c"))
        matrix = confusion.confusion(report, max_classes=2)
        assert (matrix.labels, matrix.left_out) == (("b", "c"), 1)
        assert [(cell.true_index, cell.predicted_index) for cell in matrix.cells] == [(1, 1), (1, 2), (2, 1), (2, 2)]
        assert matrix.cells[1].share == 3 / 8

    @pytest.mark.parametrize(("measure", "field"), [("counts", "count"), ("by row", "share")])
    def test_the_chart_shows_the_measure_and_can_be_clicked(self, measure: confusion.Measure, field: str) -> None:
        chart = confusion.confusion_chart(confusion.confusion(self.REPORT), measure).to_dict()
        assert chart["layer"][0]["encoding"]["color"]["field"] == field
        assert chart["params"][0]["name"] == confusion.SELECTION

    def test_numbers_are_left_out_where_cells_are_small(self) -> None:
        classes = tuple(f"class {index}" for index in range(20))
        report = report_of(tuple(tuple(int(i == j) for j in range(20)) for i in range(20)), classes)
        assert len(confusion.confusion_chart(confusion.confusion(report), "counts").to_dict()["layer"]) == 1


class TestGallery:
    TABLE = pa.table(
        {
            "id": ["a", "b", "c", "d"],
            "uri": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"],
            "label": pa.array([0, 0, 1, 1], pa.int32()),
            "predicted": pa.array([0, 1, 0, 0], pa.int32()),
            "probabilities": pa.array([[0.75, 0.25], [0.25, 0.75], [0.5, 0.5], [1.0, 0.0]], pa.list_(pa.float32())),
            "loss": pa.array([0.25, 1.5, 0.5, 9.0], pa.float32()),
            "shard": pa.array([0, 0, 1, 1], pa.int32()),
            "row": pa.array([3, 4, 5, 6], pa.int32()),
        }
    )

    def test_worst_errors_are_wrong_images_by_loss(self) -> None:
        shown = gallery.worst_errors(self.TABLE, ("cat", "dog"), 2)
        assert [(each.id, each.label, each.predicted, each.probability) for each in shown] == [
            ("d", "dog", "cat", 1.0),
            ("b", "cat", "dog", 0.75),
        ]
        assert (shown[0].shard, shown[0].row) == (1, 6)

    def test_a_cell_holds_its_images_only(self) -> None:
        assert [each.id for each in gallery.images_of_cell(self.TABLE, ("cat", "dog"), 1, 0, 9)] == ["d", "c"]
        assert [each.id for each in gallery.images_of_cell(self.TABLE, ("cat", "dog"), 0, 0, 9)] == ["a"]
        assert gallery.images_of_cell(self.TABLE, ("cat", "dog"), 1, 1, 9) == []


class TestScores:
    def test_known_scores_come_first_with_their_interval(self) -> None:
        assert scores.scores(report_of(((1,),), ("cat",))) == [
            scores.Score("Accuracy", "75.0%", "95 %: 30.1% to 95.4%"),
            scores.Score("Loss", "0.5000", ""),
            scores.Score("zeta", "25.0%", ""),
        ]

    def test_classes_come_worst_first_with_undefined_ones_on_top(self) -> None:
        rows = scores.class_rows(report_of(((1,),), ("cat",)))
        assert [(row["class"], row["f1"]) for row in rows] == [("emu", None), ("cat", 0.667), ("dog", 0.8)]

    def test_areas_under_the_curves_are_shown_for_several_labels_per_image(self) -> None:
        report = report_of(((1,),), ("cat",))
        area = report.per_class[0].model_copy(update={"auroc": 0.9, "average_precision": 0.8})
        several = report.model_copy(
            update={"task": "multi-label", "per_class": (area,), "scores": {"macro_auroc": 0.9, "accuracy": 0.5}}
        )
        assert "auroc" not in scores.class_rows(report)[0]
        assert scores.class_rows(several)[0] == scores.class_rows(several)[0] | {"auroc": 0.9, "average_precision": 0.8}
        shown = [(score.title, score.value) for score in scores.scores(several)]
        assert shown == [("Accuracy", "50.0%"), ("Macro AUROC", "0.9000")]

    def test_accuracy_of_a_finished_run(self) -> None:
        with_interval = {"accuracy": 0.5, "accuracy_low": 0.25, "accuracy_high": 0.75}
        assert scores.accuracy_text(with_interval) == scores.Score("Accuracy", "50.0%", "95 %: 25.0% to 75.0%")
        assert scores.accuracy_text({"accuracy": 0.5}) == scores.Score("Accuracy", "50.0%", "")
        assert scores.accuracy_text({"loss": 1.0}) is None


class TestHistory:
    PLAN: ClassVar[dict[str, object]] = {
        "name": "head",
        "depth": "head",
        "epochs": 2,
        "steps": 20,
        "learning_rate": 0.001,
    }

    def test_events_come_newest_first_with_short_details(self) -> None:
        rows = history.event_rows(
            [event("attempt_started", 0, attempt=1, workers=2), event("checkpoint", 5, step=7, val_loss=0.123456)]
        )
        assert [(row.event, row.attempt, row.step, row.details) for row in rows] == [
            ("checkpoint", 0, 7, "val_loss: 0.1235"),
            ("attempt started", 1, 0, "workers: 2"),
        ]

    def test_progress_counts_the_steps_of_all_epochs(self) -> None:
        run = run_of(event("phase_started", 0, **self.PLAN), status="running")
        state = history.progress(run, [step_row(15)])
        assert state == history.Progress("phase head, epoch 1, step 15 of 50", 0.3)

    def test_progress_before_the_first_phase_and_the_first_step(self) -> None:
        assert history.progress(run_of(status="running"), []) == history.Progress("starting", None)
        begun = run_of(event("phase_started", 0, **self.PLAN), status="running")
        assert history.progress(begun, []) == history.Progress("starting", 0.0)

    def test_plan_has_one_row_per_phase(self) -> None:
        run = run_of(event("phase_started", 0, **self.PLAN, notes=["x"]), event("phase_started", 1, **self.PLAN))
        (row,) = history.plan_rows(run)
        assert (row["name"], row["steps"]) == ("head", 20)
        assert "notes" not in row

    def test_settings_keep_their_order(self) -> None:
        assert history.setting_rows({"b": None, "a": 0.5}) == [
            {"setting": "b", "value": ""},
            {"setting": "a", "value": "0.5"},
        ]


class TestTopLabels:
    def test_bars_keep_the_order_of_the_model(self) -> None:
        items = top_labels.bars([("dog", 0.75), ("cat", 0.25)])
        assert items == [top_labels.Bar("dog", 0.75, "75.0%"), top_labels.Bar("cat", 0.25, "25.0%")]
        chart = top_labels.top_labels_chart(items).to_dict()
        assert chart["layer"][0]["encoding"]["y"]["sort"] == ["dog", "cat"]
