"""Order, slices and version of a dataset: functions of the content, the seed and what is asked for."""

from __future__ import annotations

import hashlib

import pytest

from tljobs.data.plan import (
    DatasetPlan,
    Placed,
    Rejected,
    refuse_if_too_many,
    shard_tasks,
    shuffled,
    slices,
    stored_short_side,
)
from tljobs.data.sources import Listing
from tljobs.data.split import Image
from tljobs.errors import InputRefused
from tljobs.records import Split
from tljobs.specs import PrepareSpec


def placed(number: int, split: Split = "train", folder: str = "/data") -> Placed:
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    label = "ab"[number % 2]
    uri = f"{folder}/{label}/{number}.jpg"
    return Placed(image=Image(uri=uri, address=uri, labels=(label,), sha256=digest, given_split=None), split=split)


def plan(images: list[Placed], classes: tuple[str, ...] = ("a", "b"), **options: object) -> DatasetPlan:
    spec = PrepareSpec.model_validate({"source": "/data", "name": "d", "shard_images": 64, **options})
    listing = Listing(source="/data", files=(), classes=classes, ignored=())
    return DatasetPlan(spec=spec, listing=listing, placed=tuple(images), duplicates=0, rejected=())


@pytest.mark.parametrize(("image_size", "short_side"), [(224, 256), (96, 110), (32, 37), (299, 342)])
def test_images_are_stored_an_eighth_above_the_input(image_size: int, short_side: int) -> None:
    assert stored_short_side(image_size) == short_side


@pytest.mark.parametrize(("images", "per_shard"), [(0, 64), (1, 64), (64, 64), (65, 64), (1000, 64), (129, 64)])
def test_slices_cover_everything_once_and_are_even(images: int, per_shard: int) -> None:
    bounds = slices(images, per_shard)
    assert [row for first, end in bounds for row in range(first, end)] == list(range(images))
    sizes = [end - first for first, end in bounds]
    assert not sizes or (max(sizes) <= per_shard and max(sizes) - min(sizes) <= 1)


def test_the_order_is_a_function_of_seed_and_content() -> None:
    images = [placed(number) for number in range(200)]
    order = [each.image.sha256 for each in shuffled(images, seed=1)]
    moved = [placed(number, folder="/elsewhere") for number in reversed(range(200))]
    assert order == [each.image.sha256 for each in shuffled(moved, seed=1)]
    assert order != [each.image.sha256 for each in shuffled(images, seed=2)]
    assert sorted(order) == sorted(each.image.sha256 for each in images)


def test_every_image_is_in_one_task_of_its_split() -> None:
    images = [placed(number, ("train", "train", "val", "test")[number % 4]) for number in range(400)]
    tasks = list(shard_tasks(plan(images)))
    assert sorted(image.uri for task in tasks for image in task.images) == sorted(each.image.uri for each in images)
    split_of = {each.image.uri: each.split for each in images}
    assert all(split_of[image.uri] == task.split for task in tasks for image in task.images)
    assert [(task.split, task.shard, len(task.images)) for task in tasks] == [
        ("test", 0, 50),
        ("test", 1, 50),
        ("val", 0, 50),
        ("val", 1, 50),
        *[("train", shard, 50) for shard in range(4)],
    ]
    assert tasks[-1].key.endswith("/shards/train-00003-of-00004.parquet")


def test_labels_are_places_in_the_class_order() -> None:
    images = [placed(number) for number in range(10)]
    for classes in (("a", "b"), ("b", "a")):
        for image in next(shard_tasks(plan(images, classes))).images:
            assert classes[image.labels[0]] == image.uri.split("/")[-2]


def test_the_version_changes_with_what_changes_the_shards_and_with_nothing_else() -> None:
    images = [placed(number, "val" if number % 3 else "train") for number in range(20)]
    version = plan(images).version
    assert len(version) == 12
    same = [
        plan(list(reversed(images))),
        plan([placed(number, "val" if number % 3 else "train", "/elsewhere") for number in range(20)]),
        plan(images, workers=7, max_rejected=0.5, source="/elsewhere", name="other"),
    ]
    assert {each.version for each in same} == {version}
    different = [
        plan(images[:-1]),
        plan([placed(number) for number in range(20)]),
        plan(images, ("b", "a")),
        plan(images, seed=1),
        plan(images, image_size=96),
        plan(images, split="70/20/10"),
        plan(images, shard_images=65),
        plan(images, max_pixels=1000),
        plan(images, background="black"),
        plan(images, decode_timeout_s=5),
    ]
    assert len({each.version for each in different} - {version}) == len(different)


def test_too_many_rejected_are_refused_with_reasons_counts_and_examples() -> None:
    rejected = [Rejected(uri=f"/{number}.jpg", label="a", reason="corrupt", detail="") for number in range(5)]
    rejected.append(Rejected(uri="/z.jpg", label="a", reason="empty", detail=""))
    refuse_if_too_many(rejected, 60, 0.1, "/data")
    refuse_if_too_many([], 60, 0.0, "/data")
    with pytest.raises(InputRefused) as caught:
        refuse_if_too_many(rejected, 60, 0.099, "/data")
    assert caught.value.what == "6 of 60 images rejected (10.0%), more than 9.9%"
    assert "corrupt: 5 (/0.jpg, /1.jpg, /2.jpg, …); empty: 1 (/z.jpg)" in caught.value.hint
