"""N workers equal one at the same global batch: order, losses, variables, BatchNorm statistics; real Ray Train."""

from collections.abc import Callable

import numpy as np
import pytest

from tljobs.data.feed import Place, TrainFeed
from tljobs.records import DatasetManifest
from tljobs.runs import open_run, run_metrics
from tljobs.specs import TrainSpec
from tljobs.store import Store
from tljobs.training import checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GLOBAL_BATCH = 24  # 97 images: the last batch holds one image, and the second worker only padding
FLOAT_TOLERANCE = {"adam": 2e-4, "sgd": 2e-5}


def spec(name: str, workers: int, batchnorm: str) -> TrainSpec:
    """Dropout and augmentation on; a head phase and an unfrozen one. Adam divides small gradients by their size and
    so magnifies rounding; with BatchNorm's own sums on top, plain SGD keeps the tolerance tight."""
    return TrainSpec(
        dataset="shapes",
        name=name,
        backbone="small-cnn",
        weights="none",
        dropout=0.4,
        augment="crop-flip",
        head_epochs=1,
        epochs=3,
        unfreeze="all",
        batchnorm=batchnorm,
        global_batch=GLOBAL_BATCH,
        optimizer="adam" if batchnorm == "frozen" else "sgd",
        learning_rate=5e-3,
        workers=workers,
    )


def final_arrays(store: Store, run: str) -> dict[str, np.ndarray]:
    """Model, optimizer and dropout state of the newest checkpoint."""
    commit, skipped = checkpoint.newest_good(store, run)
    assert commit is not None
    assert skipped == []
    return checkpoint.read_state(store, commit)


@pytest.mark.parametrize("batchnorm", ["frozen", "sync"])
def test_two_workers_equal_one(
    batchnorm: str, store: Store, dataset: DatasetManifest, whole_run: Callable[[TrainSpec], str]
) -> None:
    tolerance = FLOAT_TOLERANCE[spec("", 1, batchnorm).optimizer]
    one = whole_run(spec(f"one-{batchnorm}", 1, batchnorm))
    two = whole_run(spec(f"two-{batchnorm}", 2, batchnorm))

    steps_one, epochs_one = run_metrics(store, open_run(store, one))
    steps_two, epochs_two = run_metrics(store, open_run(store, two))
    assert len(steps_one) == len(steps_two) == 3 * -(-dataset.splits["train"].images // GLOBAL_BATCH)
    assert [row.loss for row in steps_two] == pytest.approx([row.loss for row in steps_one], abs=tolerance)
    assert [row.val_loss for row in epochs_two] == pytest.approx([row.val_loss for row in epochs_one], abs=1e-4)

    arrays_one, arrays_two = final_arrays(store, one), final_arrays(store, two)
    assert set(arrays_one) == set(arrays_two)
    for name, array in arrays_one.items():
        np.testing.assert_allclose(arrays_two[name], array, atol=tolerance, rtol=1e-3, err_msg=name)
    moved = [name for name in arrays_one if "moving" in name]
    assert moved, "BatchNorm statistics are among the compared arrays"


def test_every_epoch_counts_each_image_once_and_the_first_loss_is_ln_of_the_classes(
    store: Store, dataset: DatasetManifest, whole_run: Callable[[TrainSpec], str]
) -> None:
    steps, epochs = run_metrics(store, open_run(store, whole_run(spec("two-frozen", 2, "frozen"))))
    assert {row.images for row in epochs} == {dataset.splits["train"].images}
    assert steps[0].loss == pytest.approx(np.log(len(dataset.classes)), abs=1e-5)


def test_workers_together_see_the_order_of_one(store: Store, dataset: DatasetManifest) -> None:
    def samples(world_size: int, epoch: int) -> list[list[int]]:
        feeds = [
            TrainFeed(
                store,
                dataset,
                image_size=48,
                global_batch=GLOBAL_BATCH,
                seed=3,
                augment="crop-flip",
                place=Place(rank, world_size),
            )
            for rank in range(world_size)
        ]
        slices = zip(*(feed.slices(epoch) for feed in feeds), strict=True)
        return [
            [int(s) for each in step for s, w in zip(each.samples, each.weights, strict=True) if w] for step in slices
        ]

    one = samples(1, epoch=0)
    assert samples(2, epoch=0) == one
    assert samples(3, epoch=0) == one
    assert samples(1, epoch=1) != one
    assert sorted(s for step in one for s in step) == list(range(dataset.splits["train"].images))
