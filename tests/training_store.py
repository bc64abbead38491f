"""A store with a small dataset that the product's own functions wrote, without Ray: for tests of feeding and training.

Its training shards are of very different sizes, and its training images no multiple of any batch that tests use.
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

from images import make_class_folders

from tljobs import layout
from tljobs.data.plan import DatasetPlan, Decoding, Placed, ShardReport, ShardTask, TaskImage, stored_short_side
from tljobs.data.publish import publish
from tljobs.data.sources import list_source
from tljobs.data.split import Image
from tljobs.data.workers import write_shard
from tljobs.records import SPLITS, DatasetManifest, Split
from tljobs.runs import open_dataset
from tljobs.specs import PrepareSpec, TrainSpec
from tljobs.store import Store
from tljobs.training.reserve import reserve

CLASSES = ("checks", "disc", "stripes")
IMAGE_SIZE = 32
PER_CLASS = 40
SHARD_ROWS: dict[Split, tuple[int, ...]] = {"train": (70, 3, 23), "val": (9, 3), "test": (12,)}
MAX_PIXELS = 10**7


def make_training_dataset(store: Store, folder: Path, name: str = "shapes") -> DatasetManifest:
    """Publishes `name`: 96 training images in shards of 70, 3 and 23, 12 for validation and 12 for the test."""
    source = make_class_folders(folder, CLASSES, PER_CLASS, size_px=48)
    return publish_photos(store, PrepareSpec(source=str(source), name=name, image_size=IMAGE_SIZE), SHARD_ROWS)


def publish_photos(store: Store, spec: PrepareSpec, shard_rows: dict[Split, tuple[int, ...]]) -> DatasetManifest:
    """Of ten images in the order of their names, the first goes to val, the second to test, the others to train."""
    plan = _plan(spec)
    publish(plan, [_written(store, task, spec.image_size) for task in _tasks(plan, shard_rows)], store)
    return open_dataset(store, spec.name)


def reserve_run(store: Store, spec: TrainSpec, manifest: DatasetManifest) -> str:
    """Reserves the run of `spec`, as `train` does; returns its name."""
    data = store.read(layout.dataset_manifest(manifest.name, manifest.version))
    return reserve(store, spec, manifest, hashlib.sha256(data).hexdigest()).run.name


def _plan(spec: PrepareSpec) -> DatasetPlan:
    listing = list_source(spec.source)
    sha256s = [hashlib.sha256(Path(file.address).read_bytes()).hexdigest() for file in listing.files]
    of_ten: dict[int, Split] = {0: "val", 1: "test"}
    placed = tuple(
        Placed(
            image=Image(uri=file.uri, address=file.address, labels=file.labels, sha256=sha256, given_split=None),
            split=of_ten.get(number % 10, "train"),
        )
        for number, (file, sha256) in enumerate(zip(listing.files, sha256s, strict=True))
    )
    return DatasetPlan(spec=spec, listing=listing, placed=placed, duplicates=0, rejected=())


def _tasks(plan: DatasetPlan, shard_rows: dict[Split, tuple[int, ...]]) -> list[ShardTask]:
    tasks = []
    for split in SPLITS:
        sizes = shard_rows[split]
        images = [each.image for each in plan.placed if each.split == split]
        for shard, (first, end) in enumerate(itertools.pairwise((0, *itertools.accumulate(sizes)))):
            rows = tuple(
                TaskImage(
                    uri=each.uri,
                    address=each.address,
                    sha256=each.sha256,
                    labels=(plan.listing.classes.index(each.labels[0]),),
                )
                for each in images[first:end]
            )
            key = layout.dataset_shard(plan.spec.name, plan.version, split, shard, len(sizes))
            tasks.append(
                ShardTask(
                    key=key,
                    thumbnails_key=layout.dataset_thumbnails(plan.spec.name, plan.version, split, shard, len(sizes)),
                    split=split,
                    shard=shard,
                    task="single-label",
                    images=rows,
                )
            )
    return tasks


def _written(store: Store, task: ShardTask, image_size: int) -> ShardReport:
    decoding = Decoding(short_side=stored_short_side(image_size), max_pixels=MAX_PIXELS)
    return write_shard(task, store=store, endpoint_url=None, decoding=decoding)
