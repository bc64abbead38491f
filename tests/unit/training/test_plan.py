"""The phases of a run as numbers, and their parameters before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_store import make_training_dataset

from tljobs.backbones.small_cnn import small_cnn
from tljobs.errors import UsageError
from tljobs.records import DatasetManifest
from tljobs.specs import TrainSpec
from tljobs.store import LocalStore
from tljobs.training.describe import describe_phases
from tljobs.training.plan import make_plan, start_of


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    folder: Path = tmp_path_factory.mktemp("plan")
    return make_training_dataset(LocalStore(folder / "store"), folder / "photos")


def spec(**changes: object) -> TrainSpec:
    fields = {"dataset": "shapes", "backbone": "small-cnn", "weights": "none", "epochs": 8, "head_epochs": 3}
    return TrainSpec.model_validate(fields | changes)


def test_depths_are_unfrozen_one_after_the_other_each_with_its_count_and_rate(manifest: DatasetManifest) -> None:
    asked = spec(unfreeze="1,3,all", learning_rate=2e-3, fine_tune_factor=0.25)
    plan = make_plan(asked, manifest)
    phases = describe_phases(asked, len(manifest.classes), plan)
    assert [phase.name for phase in phases] == ["head", "unfrozen-1", "unfrozen-3", "unfrozen-all"]
    assert [phase.epochs for phase in phases] == [3, 1, 1, 3]
    assert [phase.learning_rate for phase in phases] == pytest.approx([2e-3, 5e-4, 5e-4, 5e-4])
    counts = [phase.trainable_parameters for phase in phases]
    assert counts[0] == (small_cnn(32).output_shape[-1] + 1) * 3
    assert counts == sorted(set(counts))
    assert len({phase.trainable_parameters + phase.frozen_parameters for phase in phases}) == 1
    assert [phase.first_epoch for phase in plan.phases] == [0, 3, 4, 5]


def test_steps_follow_from_the_images(manifest: DatasetManifest) -> None:
    for global_batch, steps in ((32, 3), (40, 3), (96, 1), (500, 1)):
        plan = make_plan(spec(global_batch=global_batch), manifest)
        assert (plan.steps_per_epoch, plan.steps) == (steps, 8 * steps)
    assert start_of(plan).step == 0


def test_the_head_alone_has_all_epochs_and_no_head_phase_has_none(manifest: DatasetManifest) -> None:
    assert [(p.name, p.epochs) for p in make_plan(spec(unfreeze="head"), manifest).phases] == [("head", 8)]
    only = make_plan(spec(unfreeze="all", head_epochs=0), manifest).phases
    assert [(phase.name, phase.epochs, phase.first_epoch) for phase in only] == [("unfrozen-all", 8, 0)]


def test_what_cannot_be_planned_is_the_users_mistake(manifest: DatasetManifest) -> None:
    with pytest.raises(UsageError, match=r"too few for 3 of the head and one for each of 2 depths.*--epochs"):
        make_plan(spec(unfreeze="1,all", epochs=4), manifest)
    with pytest.raises(UsageError, match=r"image size 64 is more than the dataset holds \(32\).*--image-size 64"):
        make_plan(spec(image_size=64), manifest)
