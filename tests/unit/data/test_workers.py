"""One process's work: inspecting files, and one shard from one slice, bad images left out and reported."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tljobs.data.decode import decode, decode_stored
from tljobs.data.drafts import Drafts
from tljobs.data.pixels import THUMBNAIL_PX, encode_jpeg, encode_thumbnail
from tljobs.data.plan import Decoding, InspectTask, ShardReport, ShardTask, Stored, TaskImage
from tljobs.data.probe import probe
from tljobs.data.shards import read_row_group, verify_shard
from tljobs.data.workers import inspect_files, write_shard
from tljobs.records import Split
from tljobs.store import LocalStore

DECODING = Decoding(short_side=37, max_pixels=10_000)
KEY = "datasets/d/v/shards/{}-00000-of-00001.parquet"
SMALL = "datasets/d/v/thumbnails/{}-00000-of-00001.parquet"


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.jpg" for number in range(20)]
    for path in paths:
        low = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        low.resize((80, 60), Image.Resampling.BICUBIC).save(path, quality=92)
    return paths


def planned(paths: list[Path]) -> tuple[TaskImage, ...]:
    return tuple(
        TaskImage(
            uri=str(path),
            address=str(path),
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            labels=(number % 3,),
        )
        for number, path in enumerate(paths)
    )


def shard_task(images: tuple[TaskImage, ...], split: Split) -> ShardTask:
    return ShardTask(
        key=KEY.format(split),
        thumbnails_key=SMALL.format(split),
        split=split,
        shard=0,
        task="single-label",
        images=images,
    )


def written(store: LocalStore, images: tuple[TaskImage, ...], split: Split) -> ShardReport:
    return write_shard(shard_task(images, split), store=store, endpoint_url=None, decoding=DECODING)


def test_files_are_inspected_in_order_with_reasons_where_there_is_nothing_to_see(
    photos: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("hello, world")
    paths = [photos[0], tmp_path / "gone.jpg", photos[1], tmp_path / "empty.jpg", tmp_path / "text.jpg", photos[2]]
    store = LocalStore(tmp_path / "store")
    task = InspectTask(addresses=tuple(map(str, paths)), sizes_bytes=(1, 1, 2000, 1, 1, 1), draft_key="staging/d/0.bin")
    files = inspect_files(task, store=store, endpoint_url=None, max_bytes=1000, decoding=DECODING).files
    assert [file.reason for file in files] == ["", "unreadable", "too_large", "empty", "not_an_image", ""]
    for place in (0, 3, 4, 5):
        assert files[place].sha256 == hashlib.sha256(paths[place].read_bytes()).hexdigest()
    assert all(file.detail for file in files[1:5])
    for place in (0, 5):
        file = files[place]
        decoded = decode(paths[place].read_bytes(), short_side=37)
        assert file.probe == probe(decoded)
        assert file.draft
        draft = store.read("staging/d/0.bin")[file.draft.offset : file.draft.offset + file.draft.size_bytes]
        assert draft == encode_jpeg(decoded.pixels) + encode_thumbnail(decoded.pixels)


def test_a_shard_of_drafts_is_the_shard_of_the_originals(photos: list[Path], tmp_path: Path) -> None:
    """Also where a draft is not what the first pass wrote: then the original is decoded."""
    store, images = LocalStore(tmp_path / "store"), planned(photos)
    wanted = written(store, images, "train")
    drafts = Drafts(store, "t")
    task = InspectTask(addresses=tuple(map(str, photos)), sizes_bytes=(1,) * 20, draft_key=drafts.new_pack())
    drafts.add(0, inspect_files(task, store=store, endpoint_url=None, max_bytes=10**6, decoding=DECODING).files)
    drafted = tuple(image.model_copy(update={"drafted": drafts.of(image.sha256)}) for image in images)
    for path in photos[2:]:
        path.unlink()
    assert written(store, drafted, "train") == wanted
    (pack,) = (entry.key for entry in store.list("staging/"))
    store.put(pack, b"damaged" + store.read(pack)[7:])
    assert written(store, drafted, "train") == wanted
    drafts.delete()
    assert store.list("staging/") == []
    assert [row.uri for row in written(store, drafted, "train").rows] == [str(path) for path in photos[:2]]


def test_evaluation_rows_are_the_very_pixels_that_decoding_the_original_gives(
    photos: list[Path], tmp_path: Path
) -> None:
    store = LocalStore(tmp_path / "store")
    report = written(store, planned(photos), "val")
    verify_shard(store, report.info)
    ids, images, labels = read_row_group(store, report.info, 0)
    for path, row, each, image, label in zip(photos, report.rows, ids, images, labels, strict=True):
        assert (row.uri, row.labels, row.width_px, row.height_px, row.source_format) == (
            str(path),
            label,
            80,
            60,
            "jpeg",
        )
        assert row.sha256.startswith(each)
        assert np.array_equal(decode_stored(image), decode(path.read_bytes(), short_side=37).pixels)


def test_training_rows_are_jpeg_near_the_original(photos: list[Path], tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    _, images, _ = read_row_group(store, written(store, planned(photos), "train").info, 0)
    for path, image in zip(photos, images, strict=True):
        assert image.startswith(b"\xff\xd8")
        difference = decode_stored(image).astype(int) - decode(path.read_bytes(), short_side=37).pixels
        assert np.abs(difference).mean() < 8


@pytest.mark.parametrize("split", ["train", "val"])
def test_thumbnails_are_small_and_row_by_row_those_of_the_images(
    photos: list[Path], tmp_path: Path, split: Split
) -> None:
    Image.open(photos[0]).resize((240, 40)).save(photos[0], quality=92)  # stored as 222 x 37
    store = LocalStore(tmp_path / "store")
    report = written(store, planned(photos), split)
    ids, images, labels = read_row_group(store, report.info, 0)
    small_ids, small, small_labels = read_row_group(store, report.thumbnails, 0)
    assert (small_ids, small_labels) == (ids, labels)
    assert decode_stored(small[0]).shape == (21, THUMBNAIL_PX, 3)
    for image, thumbnail in zip(images[1:], small[1:], strict=True):
        assert decode_stored(thumbnail).shape == decode_stored(image).shape
        assert np.abs(decode_stored(thumbnail).astype(int) - decode_stored(image)).mean() < 12


def test_bad_images_are_left_out_and_reported(photos: list[Path], tmp_path: Path) -> None:
    whole = photos[3].read_bytes()
    photos[3].write_bytes(whole[:-40])
    photos[5].write_text("this is no image")
    images = planned(photos)
    photos[7].unlink()
    photos[9].write_bytes(whole)
    store = LocalStore(tmp_path / "store")
    report = written(store, images, "train")
    assert [(Path(each.uri).stem, each.reason) for each in report.rejected] == [
        ("3", "truncated"),
        ("5", "not_an_image"),
        ("7", "unreadable"),
        ("9", "unreadable"),
    ]
    assert "changed" in report.rejected[3].detail
    assert (report.info.rows, len(report.rows)) == (16, 16)
    assert read_row_group(store, report.info, 0)[0] == [row.sha256[:32] for row in report.rows]


def test_what_was_done_to_an_image_stands_in_its_row(tmp_path: Path) -> None:
    path = tmp_path / "Übung Nr. 1 – 写真.JPG"
    Image.new("RGBA", (60, 50), (255, 0, 0, 0)).save(path, "PNG")
    task = shard_task(planned([path]), "val")
    store = LocalStore(tmp_path / "store")
    blue = DECODING.model_copy(update={"background": "#0000ff"})
    report = write_shard(task, store=store, endpoint_url=None, decoding=blue)
    assert report.rows[0].converted == ("transparent", "wrong_extension")
    assert (decode_stored(read_row_group(store, report.info, 0)[1][0]) == (0, 0, 255)).all()


def test_a_copied_image_is_judged_by_the_name_it_has_now(photos: list[Path], tmp_path: Path) -> None:
    """Its earlier version was called `.png`; the copy is a JPEG file with a JPEG file's name."""
    store = LocalStore(tmp_path / "store")
    first = written(store, planned(photos), "train")
    known = first.rows[0].model_dump(exclude={"uri", "address", "sha256", "labels"}) | {
        "converted": ["wrong_extension"]
    }
    place = Stored(shard_key=first.info.key, row=0, known=known)
    image = planned(photos)[0].model_copy(update={"stored": place})
    again = {"earlier": ((first.info, first.thumbnails),), "key": "again"}
    task = shard_task((image,), "train").model_copy(update=again)
    report = write_shard(task, store=store, endpoint_url=None, decoding=DECODING)
    assert (report.copied, report.rows[0].converted) == (1, ())


def test_an_image_that_takes_too_long_is_left_out(photos: list[Path], tmp_path: Path) -> None:
    images = planned(photos[:3])
    task = shard_task(images, "train")
    hurried = DECODING.model_copy(update={"short_side": 2048, "timeout_s": 0.001})
    report = write_shard(task, store=LocalStore(tmp_path / "store"), endpoint_url=None, decoding=hurried)
    assert [each.reason for each in report.rejected] == ["decoder_timeout"] * 3
    assert report.rows == ()


def test_writing_again_gives_the_same_bytes(photos: list[Path], tmp_path: Path) -> None:
    infos = [
        written(LocalStore(tmp_path / name), planned(photos), split).info for name in "ab" for split in ("train", "val")
    ]
    assert infos[:2] == infos[2:]
