"""Splits are a function of the content; duplicates and conflicts are settled by the content too."""

from __future__ import annotations

import hashlib
import math
from collections import Counter

import pytest

from tljobs.data.groups import keys_together
from tljobs.data.sources import SourceFile
from tljobs.data.split import Image, Percentages, assign_splits, require_images, split_of, unique_images
from tljobs.errors import InputRefused
from tljobs.records import Split

USUAL = Percentages.parse("80/10/10")


def sha(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def image(number: int, given: Split | None = None) -> Image:
    return Image(uri=f"/{number}.jpg", address="", labels=("a",), sha256=sha(number), given_split=given)


def file(path: str, label: str = "a", given: Split | None = None) -> SourceFile:
    return SourceFile(uri=f"/{path}", address=f"/{path}", path=path, labels=(label,), given_split=given, size_bytes=1)


@pytest.mark.parametrize("shares", ["80/10/10", "60/20/20", "100/0/0", "0/0/100", "70/30/0", "34/33/33"])
def test_shares_are_as_asked_for(shares: str) -> None:
    percentages = Percentages.parse(shares)
    counts = Counter(split_of(sha(number), percentages) for number in range(20_000))
    for split, share in zip(
        ("train", "val", "test"), (percentages.train, percentages.val, percentages.test), strict=True
    ):
        assert counts[split] / 200 == pytest.approx(share, abs=1.2)
        assert share or not counts[split]


def test_the_split_of_known_contents_never_changes() -> None:
    second_letters = "".join(split_of(sha(number), Percentages.parse("50/25/25"))[1] for number in range(24))
    assert second_letters == "earrarearrarrreerarrrrra"


def test_adding_images_moves_no_other() -> None:
    old = [image(number) for number in range(100)]
    new = [image(number) for number in range(500)]
    assert assign_splits(new, USUAL)[:100] == assign_splits(old, USUAL)


def test_the_split_depends_on_the_content_and_not_on_the_name() -> None:
    moved = [
        Image(uri=f"/elsewhere/{each}", address="", labels=("b",), sha256=sha(each), given_split=None)
        for each in range(200)
    ]
    assert assign_splits(moved, USUAL) == assign_splits([image(each) for each in range(200)], USUAL)


def test_given_splits_are_respected() -> None:
    given: list[Split] = ["train", "val", "test", "train", "val"]
    assert assign_splits([image(number, each) for number, each in enumerate(given)], USUAL) == given
    assert assign_splits([image(0, "train"), image(1, "val")], USUAL) == ["train", "val"]


def test_validation_is_carved_out_of_train_when_only_a_test_is_given() -> None:
    images = [image(number, "train") for number in range(9000)] + [
        image(number, "test") for number in range(9000, 9100)
    ]
    splits = assign_splits(images, Percentages.parse("60/20/20"))
    assert splits[9000:] == ["test"] * 100
    assert splits[:9000].count("val") / 9000 == pytest.approx(20 / 80, abs=0.02)
    assert "test" not in splits[:9000]


def test_a_lone_train_folder_is_split_in_three() -> None:
    assert set(assign_splits([image(number, "train") for number in range(200)], USUAL)) == {"train", "val", "test"}


def test_equal_bytes_with_one_label_are_kept_once() -> None:
    unique = unique_images([(file("b.jpg"), sha(1)), (file("a.jpg"), sha(1)), (file("c.jpg"), sha(2))])
    assert [each.uri for each in unique.kept] == ["/a.jpg", "/c.jpg"]
    assert (unique.duplicates, unique.conflicts) == (1, ())


def test_equal_bytes_with_two_labels_are_all_conflicts() -> None:
    unique = unique_images([(file("1.jpg", "a"), sha(1)), (file("2.jpg", "b"), sha(1)), (file("3.jpg", "a"), sha(1))])
    assert unique.kept == ()
    assert [each.uri for each in unique.conflicts] == ["/1.jpg", "/2.jpg", "/3.jpg"]
    assert unique.duplicates == 0


def test_equal_bytes_in_train_and_test_stay_in_test() -> None:
    copies = [
        (file("a.jpg", given="train"), sha(1)),
        (file("c.jpg", given="test"), sha(1)),
        (file("b.jpg", given="val"), sha(1)),
    ]
    unique = unique_images(copies)
    assert [each.given_split for each in unique.kept] == ["test"]
    assert unique.duplicates == 2
    assert [each.given_split for each in unique_images(copies[::2]).kept] == ["val"]


@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_class_without_training_or_validation_images_is_refused_with_counts(missing: Split) -> None:
    placed: list[tuple[tuple[str, ...], Split]] = [
        (("a",), "train"),
        (("a",), "val"),
        (("b",), "train"),
        (("b",), "val"),
        (("b",), "test"),
    ]
    require_images(("a", "b"), placed)
    with pytest.raises(InputRefused, match=f"1 of 2 classes without {missing} images: b: .*1 test") as caught:
        require_images(("a", "b"), [each for each in placed if each != (("b",), missing)])
    assert "--split" in caught.value.hint


def labelled(number: int, label: str, group: str = "") -> Image:
    return Image(uri=f"/{number}.jpg", address="", labels=(label,), sha256=sha(number), given_split=None, group=group)


@pytest.mark.parametrize("images", [4, 7, 20, 50])
def test_small_classes_have_images_in_every_split_and_about_their_shares(images: int) -> None:
    rows = [labelled(100 * label + number, f"class{label}") for label in range(40) for number in range(images)]
    splits = assign_splits(rows, USUAL)
    for label in range(40):
        counts = Counter(splits[label * images : (label + 1) * images])
        assert 1 <= counts["val"] <= max(1, math.ceil(0.2 * images))
        assert 1 <= counts["test"] <= max(1, math.ceil(0.2 * images))
        assert counts["train"] >= images / 2


def test_evening_out_moves_few_images() -> None:
    rows = [labelled(100 * label + number, f"class{label}") for label in range(40) for number in range(50)]
    moved = sum(
        split != split_of(row.sha256, USUAL) for row, split in zip(rows, assign_splits(rows, USUAL), strict=True)
    )
    assert 0 < moved < 0.02 * len(rows)


def test_images_of_an_earlier_version_keep_their_splits() -> None:
    old = [labelled(number, "a") for number in range(12)]
    splits = dict(zip((each.sha256 for each in old), assign_splits(old, USUAL), strict=True))
    new = [labelled(number, "a") for number in range(400)]
    again = assign_splits(new, USUAL, earlier=splits)
    assert again[:12] == list(splits.values())
    assert any(split_of(each.sha256, USUAL) != split for each, split in zip(old, again[:12], strict=True))


def test_images_that_belong_together_are_in_one_split() -> None:
    rows = [labelled(number, "ab"[number % 2], f"patient {number // 9}") for number in range(900)]
    keys = keys_together([each.sha256 for each in rows], [each.group for each in rows])
    splits = assign_splits(rows, USUAL, keys)
    assert all(len(set(splits[first : first + 9])) == 1 for first in range(0, 900, 9))
    assert set(splits) == {"train", "val", "test"}


def test_more_images_of_a_group_go_where_the_group_is() -> None:
    rows = [labelled(number, "ab"[number % 2], f"patient {number // 9}") for number in range(1800)]
    few, many = (
        assign_splits(part, USUAL, keys_together([each.sha256 for each in part], [each.group for each in part]))
        for part in (rows[::2], rows)
    )
    assert many[::2] == few


def test_a_class_of_one_group_stays_whole_and_is_refused_later() -> None:
    rows = [labelled(number, "a", "one") for number in range(9)] + [labelled(number, "b") for number in range(10, 60)]
    splits = assign_splits(rows, USUAL, keys_together([each.sha256 for each in rows], [each.group for each in rows]))
    assert len(set(splits[:9])) == 1
    with pytest.raises(InputRefused, match="1 of 2 classes without val images"):
        require_images(("a", "b"), zip((each.labels for each in rows), splits, strict=True))


def test_the_labels_of_a_multi_label_image_all_count() -> None:
    rows = [
        Image(
            uri=f"/{number}",
            address="",
            labels=("rare", "common") if number < 6 else ("common",),
            sha256=sha(number),
            given_split=None,
        )
        for number in range(100)
    ]
    counts = Counter(
        (label, split) for row, split in zip(rows, assign_splits(rows, USUAL), strict=True) for label in row.labels
    )
    assert all(counts[label, split] for label in ("rare", "common") for split in ("train", "val", "test"))


@pytest.mark.parametrize("seed", range(12))
def test_a_large_group_is_not_moved_where_single_images_do(seed: int) -> None:
    rows = [labelled(1000 * seed + number, "a", "video" if number < 60 else "") for number in range(80)]
    keys = keys_together([each.sha256 for each in rows], [f"{each.group}{seed}" if each.group else "" for each in rows])
    splits = assign_splits(rows, USUAL, keys)
    assert splits[0] == "train" or split_of(keys[0], USUAL) == splits[0]
    if splits[0] == "train":
        assert 1 <= splits.count("val") <= 16


def test_the_only_other_group_is_taken_for_validation_however_large() -> None:
    rows = [labelled(number, "a", f"video {number // 50}") for number in range(100)]
    keys = keys_together([each.sha256 for each in rows], [each.group for each in rows])
    splits = assign_splits(rows, Percentages.parse("80/20/0"), keys)
    assert {splits[0], splits[50]} == {"train", "val"}
