"""One attempt after the other in this very process, without Ray: stops and resumes at every step, early stopping, the
change of phases, and what is written down."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
from training_store import make_training_dataset, reserve_run

from tljobs import layout
from tljobs.backbones.network import Network
from tljobs.data.feed import SplitReader
from tljobs.records import CheckpointCommit, DatasetManifest, EpochRow
from tljobs.runs import open_run, run_journal, run_metrics
from tljobs.specs import TrainSpec
from tljobs.store import LocalStore, Store
from tljobs.training import checkpoint, loop
from tljobs.training.loop import Outcome, run_attempt
from tljobs.training.workers import StopFlag, Workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

STEPS_PER_EPOCH = 3  # 96 images, 40 per step: the last batch is padded
HARMLESS_RATE = 1e-30  # moves no float32 but zeros
MOVED_BY_HARMLESS_RATE = 1e-28
STEP_SCALARS = ("loss", "accuracy", "learning_rate", "grad_norm")


@dataclass
class Attempt:
    """How an attempt ended, the epochs it told of, and the model's variables that it exported by path."""

    outcome: Outcome
    epochs: list[EpochRow]
    exported: dict[str, np.ndarray] = field(default_factory=dict)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return LocalStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def plain_run(store: Store, manifest: DatasetManifest) -> Attempt:
    """The run `plain`: two phases, three epochs, a checkpoint every 2 steps."""
    return trained(store, manifest, spec("plain", checkpoint_steps=2))


@pytest.fixture(scope="module")
def manifest(store: Store, tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return make_training_dataset(store, tmp_path_factory.mktemp("photos"))


def spec(name: str, **changes: object) -> TrainSpec:
    """Dropout, augmentation, BatchNorm statistics and momentum: all that a resume could forget."""
    fields = {
        "dataset": "shapes",
        "name": name,
        "backbone": "small-cnn",
        "weights": "none",
        "dropout": 0.4,
        "head_epochs": 1,
        "epochs": 3,
        "unfreeze": "all",
        "batchnorm": "sync",
        "fine_tune_factor": 1.0,
        "global_batch": 40,
        "learning_rate": 5e-3,
        "warmup_steps": 1,
    }
    return TrainSpec.model_validate(fields | changes)


def attempt(store: Store, manifest: DatasetManifest, spec: TrainSpec) -> Attempt:
    epochs: list[EpochRow] = []
    exported: dict[str, np.ndarray] = {}

    def export(network: Network) -> None:
        exported.update(by_path(network))

    run = spec.name or ""
    outcome = run_attempt(spec, store, manifest, run, Workers(), on_epoch=epochs.append, export=export)
    return Attempt(outcome, epochs, exported)


def trained(store: Store, manifest: DatasetManifest, spec: TrainSpec) -> Attempt:
    reserve_run(store, spec, manifest)
    return attempt(store, manifest, spec)


def by_path(network: Network) -> dict[str, np.ndarray]:
    return {variable.path: np.array(variable) for variable in network.model.variables}


def newest(store: Store, run: str) -> CheckpointCommit:
    commit, skipped = checkpoint.newest_good(store, run)
    assert commit is not None
    assert skipped == []
    return commit


def arrays_at(store: Store, run: str, step: int) -> dict[str, np.ndarray]:
    """Variables in the checkpoint at `step`, by path, without the number in front."""
    (found,) = [each for each in checkpoint.committed(store, run) if each[0] == step]
    arrays = checkpoint.read_state(store, checkpoint.read_commit(store, run, *found))
    return {name.partition(":")[2]: array for name, array in arrays.items()}


def measured(store: Store, run: str) -> list[object]:
    """All metrics but the times."""
    steps, epochs = run_metrics(store, open_run(store, run))
    return [*steps, *(epoch.model_copy(update={"wall_s": 0.0, "wait_s": 0.0}) for epoch in epochs)]


# ------------------------------------------------------------------------------------------------ stop and resume


class StopAtFirstStep(StopFlag):
    """Somebody asks every attempt to stop before its first step."""

    @property
    def is_set(self) -> bool:
        return True


def test_a_run_stopped_after_every_step_equals_one_that_was_left_alone(
    store: Store, manifest: DatasetManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of 9 attempts makes one step: every step of both phases, also the last of an epoch, is a place to resume."""
    whole, stopped = spec("whole", patience=5), spec("stopped", patience=5)
    wanted = trained(store, manifest, whole)
    reserve_run(store, stopped, manifest)
    monkeypatch.setattr(loop, "StopFlag", StopAtFirstStep)
    steps = 3 * STEPS_PER_EPOCH
    for number in range(1, steps + 1):
        assert attempt(store, manifest, stopped).outcome == Outcome("stopped", number)
    got = attempt(store, manifest, stopped)

    assert (got.outcome, got.outcome.status) == (wanted.outcome, "trained")
    mine, theirs = newest(store, "stopped"), newest(store, "whole")
    assert (mine.position, mine.position.step) == (theirs.position, steps)
    assert mine.variables_sha256 == theirs.variables_sha256
    expected = checkpoint.read_state(store, theirs)
    found = checkpoint.read_state(store, mine)
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert any("momentum" in name for name in expected) and any("seed_generator" in name for name in expected)
    assert measured(store, "stopped") == measured(store, "whole")
    for path, array in wanted.exported.items():
        np.testing.assert_array_equal(got.exported[path], array, err_msg=path)


def test_checkpoints_come_at_the_asked_steps_and_the_last_and_the_best_are_there(
    store: Store, plain_run: Attempt
) -> None:
    events = run_journal(store, "plain").read()
    saved = [event.step for event in events if event.kind == "checkpoint"]
    assert saved == [2, 3, 4, 6, 8, 9]  # every 2 steps and at the end of every epoch
    kept = [step for step, _ in checkpoint.committed(store, "plain")]
    best = checkpoint.best(store, "plain").position.step
    assert kept[:2] == [9, 8]
    assert best in kept
    assert len(kept) <= checkpoint.KEEP_NEWEST + 2


# ------------------------------------------------------------------------------------ early stopping and the best


def test_patience_stops_a_phase_early_and_the_run_ends_with_the_best_epoch(
    store: Store, manifest: DatasetManifest
) -> None:
    """A rate that is far too high: the loss gets worse soon after the first epoch."""
    wild = spec("wild", unfreeze="head", epochs=30, learning_rate=3.0, patience=2, monitor="val_loss")
    result = trained(store, manifest, wild)
    losses = [epoch.val_loss for epoch in result.epochs]
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 2 < 30
    assert result.outcome.step == result.epochs[best].step
    assert_same_model(result.exported, arrays_at(store, "wild", result.epochs[best].step))
    last = arrays_at(store, "wild", result.epochs[-1].step)
    assert any(not np.array_equal(array, last[path]) for path, array in result.exported.items())


def test_equal_epochs_are_told_apart_by_being_earlier(store: Store, manifest: DatasetManifest) -> None:
    """Nothing moves, so all epochs are equal: the first is the best, and patience counts from there."""
    still = spec("still", unfreeze="head", epochs=9, learning_rate=HARMLESS_RATE, patience=3)
    result = trained(store, manifest, still)
    assert len({(epoch.val_loss, epoch.val_accuracy) for epoch in result.epochs}) == 1
    assert len(result.epochs) == 1 + 3
    assert result.outcome.step == STEPS_PER_EPOCH


def test_early_stopping_goes_on_counting_after_a_resume(
    store: Store, manifest: DatasetManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    still = {"unfreeze": "head", "epochs": 9, "learning_rate": HARMLESS_RATE, "patience": 3}
    stopped = spec("still-stopped", **still)
    reserve_run(store, stopped, manifest)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopFlag", StopAtFirstStep)
        for _ in range(2 * STEPS_PER_EPOCH + 1):  # two epochs and a step, in as many attempts
            assert attempt(store, manifest, stopped).outcome.status == "stopped"
    result = attempt(store, manifest, stopped)
    _, epochs = run_metrics(store, open_run(store, "still-stopped"))
    assert len(epochs) == 1 + 3
    assert (result.outcome.status, result.outcome.step) == ("trained", STEPS_PER_EPOCH)


def test_a_run_that_has_stopped_early_is_not_trained_again(store: Store, manifest: DatasetManifest) -> None:
    """As when it was killed between the end of training and its publication."""
    still = spec("over", unfreeze="head", epochs=9, learning_rate=HARMLESS_RATE, patience=1)
    first = trained(store, manifest, still)
    again = attempt(store, manifest, still)
    assert again.epochs == []
    assert again.outcome == first.outcome
    for path, array in first.exported.items():
        np.testing.assert_array_equal(again.exported[path], array, err_msg=path)


# ----------------------------------------------------------------------------------------------------- two phases


def test_the_second_phase_starts_from_the_head_of_the_first(store: Store, manifest: DatasetManifest) -> None:
    """The second phase moves nothing, so its checkpoint shows where it started."""
    two = spec("two", head_epochs=2, epochs=3, fine_tune_factor=HARMLESS_RATE, batchnorm="frozen", warmup_steps=0)
    trained(store, manifest, two)
    head, end = (arrays_at(store, "two", epochs * STEPS_PER_EPOCH) for epochs in (2, 3))
    assert float(np.abs(head["logits/kernel"]).max()) > 0.01
    for path in model_paths(end):
        np.testing.assert_allclose(end[path], head[path], rtol=0, atol=MOVED_BY_HARMLESS_RATE, err_msg=path)
    started = [event for event in run_journal(store, "two").read() if event.kind == "phase_started"]
    assert [(event.data["name"], event.step) for event in started] == [("head", 0), ("unfrozen-all", 6)]


def test_after_early_stopping_the_second_phase_starts_from_the_best_head(
    store: Store, manifest: DatasetManifest
) -> None:
    two = spec(
        "two-early",
        head_epochs=20,
        epochs=21,
        learning_rate=3.0,
        fine_tune_factor=HARMLESS_RATE,
        patience=1,
        monitor="val_loss",
        batchnorm="frozen",
    )
    result = trained(store, manifest, two)
    *heads, unfrozen = result.epochs
    assert (unfrozen.phase, {epoch.phase for epoch in heads}) == ("unfrozen-all", {"head"})
    best = min(heads, key=lambda epoch: epoch.val_loss)
    assert heads[-2] is best
    assert unfrozen.val_loss == pytest.approx(best.val_loss, rel=1e-6)


def test_every_validation_of_both_phases_is_on_all_images(
    store: Store, manifest: DatasetManifest, plain_run: Attempt
) -> None:
    """The best epoch's scores are those of its own probabilities of every validation image, each once."""
    arrays = safetensors.numpy.load(store.read(layout.run_own_validation("plain", 0)))
    assert arrays["positions"].tolist() == list(range(manifest.splits["val"].images))
    reader = SplitReader(store, manifest, "val")
    labels = np.concatenate([reader.read(group)[1] for group in range(len(reader.groups))])
    picked = arrays["probabilities"][np.arange(len(labels)), labels]
    best = next(epoch for epoch in plain_run.epochs if epoch.step == plain_run.outcome.step)
    assert best.val_accuracy == pytest.approx(np.mean(arrays["probabilities"].argmax(axis=1) == labels))
    assert best.val_loss == pytest.approx(-np.log(picked.astype(np.float64)).mean(), rel=1e-5)
    for epoch in plain_run.epochs:
        images = epoch.val_accuracy * manifest.splits["val"].images
        assert images == pytest.approx(round(images))
        assert epoch.images == manifest.splits["train"].images


def test_clip_norm_bounds_every_update_of_a_run(store: Store, manifest: DatasetManifest) -> None:
    """Of SGD with momentum 0.9, an update is at most rate × norm × 1 / (1 - 0.9)."""
    rate, clip_norm = 0.5, 1e-3
    asked = {"unfreeze": "head", "epochs": 2, "optimizer": "sgd", "schedule": "constant", "learning_rate": rate}
    trained(store, manifest, spec("clipped", clip_norm=clip_norm, checkpoint_steps=1, warmup_steps=0, **asked))
    steps, _ = run_metrics(store, open_run(store, "clipped"))
    assert min(row.grad_norm for row in steps) > 10 * clip_norm
    before, after = (arrays_at(store, "clipped", step) for step in (5, 6))
    moved = np.sqrt(sum(np.sum((after[path] - before[path]) ** 2) for path in ("logits/kernel", "logits/bias")))
    assert rate * clip_norm < moved <= rate * clip_norm / (1 - 0.9)


# ----------------------------------------------------------------------------------------------- what is written


def test_tensorboard_reads_the_metrics_of_the_run(store: Store, plain_run: Attempt, tmp_path: Path) -> None:
    key = layout.run_tensorboard("plain", 1)
    (tmp_path / Path(key).name).write_bytes(store.read(key))
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    events.Reload()
    steps, epochs = run_metrics(store, open_run(store, "plain"))
    rows = {f"train/{name}": [(row.step, getattr(row, name)) for row in steps] for name in STEP_SCALARS}
    rows["val/loss"] = [(row.step, row.val_loss) for row in epochs]
    rows["val/accuracy"] = [(row.step, row.val_accuracy) for row in epochs]
    assert set(events.Tags()["tensors"]) == set(rows)
    assert len(steps) == 3 * STEPS_PER_EPOCH
    for tag, wanted in rows.items():
        found = [(event.step, float(tensor_util.make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]
        assert [step for step, _ in found] == [step for step, _ in wanted]
        assert [value for _, value in found] == pytest.approx([value for _, value in wanted], rel=1e-6)


def test_metrics_are_plain_json_on_disk(store: Store, plain_run: Attempt) -> None:
    """Read as anybody can, with the json module alone."""
    assert isinstance(store, LocalStore)
    pieces = [json.loads(path.read_text()) for path in sorted((store.root / "runs/plain/metrics").glob("*.json"))]
    epochs = [row for piece in pieces for row in piece["epochs"]]
    assert [(row["phase"], row["epoch"], row["step"]) for row in epochs] == [
        ("head", 0, 3),
        ("unfrozen-all", 0, 6),
        ("unfrozen-all", 1, 9),
    ]
    assert {"train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "wall_s"} <= set(epochs[0])
    steps = [row for piece in pieces for row in piece["steps"]]
    assert [row["step"] for row in steps] == list(range(1, 10))
    assert set(STEP_SCALARS) <= set(steps[0])


def model_paths(arrays: dict[str, np.ndarray]) -> list[str]:
    """Weights of the network: not the optimizer's, nor the states of generators, which count calls."""
    ends = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
    return [path for path in arrays if path.split("/")[-1] in ends and path.count("/") == 1]


def assert_same_model(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    paths = model_paths(got)
    assert "block1_conv/kernel" in paths and "block4_bn/moving_mean" in paths and "logits/bias" in paths
    for path in paths:
        np.testing.assert_array_equal(got[path], wanted[path], err_msg=path)
