"""`tljobs demo`: the whole way on real photos, and what transfer is worth at each stage.

In: the name of a photo set. Out: datasets, runs and a search in the store like any others, and a table on stdout.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from tljobs.data.photo_sets import PhotoSet, default_photo_set, photo_set
from tljobs.data.prepare import prepare
from tljobs.errors import TljobsError
from tljobs.progress import Reporter
from tljobs.ray_session import ray_session
from tljobs.results import TrainResult, TuneResult
from tljobs.serving.predict import predict
from tljobs.specs import PredictSpec, PrepareSpec, TrainSpec, TuneSpec
from tljobs.store import Store
from tljobs.training.train import train
from tljobs.tuning.job import tune

IMAGE_SIZE = 160  # half of the operations of 224: the demo is bound by them on a CPU
CACHE_VARIABLE = "TLJOBS_CACHE"


@dataclass(frozen=True)
class Stage:
    """One line of the demo's table."""

    title: str
    scores: dict[str, float]
    wall_s: float


def demo(photos: str | None, store: Store, reporter: Reporter) -> int:
    """Runs all stages; stages that were run before are found again. Returns the exit code."""
    cache = Path(os.environ.get(CACHE_VARIABLE, "~/.cache/tljobs")).expanduser()
    photo = photo_set(photos, cache, reporter) if photos else default_photo_set(cache, reporter)
    reporter.note(f"Photos: {photo.name} ({photo.source}; {photo.licence}), in {photo.folder}")
    started_s = time.monotonic()
    name = f"demo-{photo.name}"
    with ray_session(store):
        reporter.note("1. prepare: check, split, resize and shuffle the photos")
        spec = PrepareSpec(source=str(photo.folder), name=name, image_size=IMAGE_SIZE, split="70/15/15")
        prepare(spec, store, reporter)
        stages = [_trained(title, spec, store, reporter) for title, spec in _runs(name)]
        searched, best = _searched(name, store, reporter)
    stages.append(searched)
    reporter.note("6. predict: a photo that no stage has seen")
    _print_table(photo, stages)
    _print_prediction(photo, best, store, reporter)
    print(
        f"From photos to prediction: {time.monotonic() - started_s:.0f} s. Next: tljobs dashboard --store {store.uri}"
    )
    return 0


def _runs(dataset: str) -> list[tuple[str, TrainSpec]]:
    """What is compared: the same photos, the same epochs where it matters, more and more of a pretrained network."""
    scratch = TrainSpec(
        dataset=dataset,
        name=f"{dataset}-scratch",
        backbone="small-cnn",
        weights="none",
        unfreeze="all",
        head_epochs=0,
        epochs=4,
        learning_rate=2e-3,
        fine_tune_factor=1.0,
        batchnorm="sync",
    )
    head = TrainSpec(dataset=dataset, name=f"{dataset}-head", unfreeze="head", epochs=3, learning_rate=5e-3)
    two = TrainSpec(
        dataset=dataset, name=f"{dataset}-two-phases", unfreeze="2", head_epochs=1, epochs=3, learning_rate=5e-3
    )
    return [
        ("2. a small network from scratch: no transfer", scratch),
        ("3. the head alone: a pretrained network, frozen", head),
        ("4. two phases: the head, then the last 2 blocks at a tenth of the rate", two),
    ]


def _trained(title: str, spec: TrainSpec, store: Store, reporter: Reporter) -> Stage:
    reporter.note(title)
    result = train(spec, store, reporter)
    assert isinstance(result, TrainResult)
    return Stage(title, _test_scores(result), result.wall_s)


def _searched(dataset: str, store: Store, reporter: Reporter) -> tuple[Stage, str]:
    title = "5. a small search: two rates at two depths"
    reporter.note(title)
    spec = TuneSpec(
        dataset=dataset,
        name=f"{dataset}-search",
        learning_rate="2e-3,1e-2",
        unfreeze="head,2",
        head_epochs=1,
        epochs=2,
    )
    result = tune(spec, store, reporter)
    if not isinstance(result, TuneResult) or result.best is None:
        raise TljobsError("the search found nothing", f"{dataset}-search", "See: tljobs searches")
    return Stage(title, _test_scores(result), result.wall_s), result.best


def _test_scores(result: TrainResult | TuneResult) -> dict[str, float]:
    return result.scores.get("test") or result.scores["val"]


def _print_table(photo: PhotoSet, stages: list[Stage]) -> None:
    print(f"\nWhat transfer is worth on {photo.name} (accuracy on test images, 95 % interval):")
    for stage in stages:
        scores = stage.scores
        interval = f"{scores['accuracy_low']:.3f} to {scores['accuracy_high']:.3f}"
        print(
            f"  {scores['accuracy']:.3f} ({interval}, n = {scores['images']:.0f})  {stage.wall_s:4.0f} s  {stage.title}"
        )


def _print_prediction(photo: PhotoSet, run: str, store: Store, reporter: Reporter) -> None:
    spec = PredictSpec(model=run, inputs=(str(photo.unseen),), top_k=3)
    for row in predict(spec, store, reporter):
        top = ", ".join(f"{label} {score:.3f}" for label, score in row.top)
        print(f"\n{row.input}: {row.label or row.status} ({top})")
