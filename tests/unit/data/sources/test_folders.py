"""What counts as an image of which class, told by folders alone; and the listing of a real folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tljobs.data.sources import Found, Listing, SourceOptions, Tree, arrange, list_source, read_file, source_uri
from tljobs.errors import InputRefused, NotFound, UsageError


def arranged(*paths: str, classes: Sequence[str] | None = None, group_by: str | None = None) -> Listing:
    files = [Found(path=path, uri=f"/data/{path}", address=f"/data/{path}", size_bytes=10) for path in paths]
    options = SourceOptions(classes=tuple(classes) if classes else None, group_by=group_by)
    return arrange(Tree(source="/data", files=tuple(files)), options)


def labels(listing: Listing) -> dict[str, str]:
    return {file.path: file.label for file in listing.files}


def test_folder_names_are_labels_and_sorted_names_are_the_order() -> None:
    listing = arranged("dogs/2.jpg", "cats/1.jpg", "cats/0.PNG")
    assert labels(listing) == {"cats/0.PNG": "cats", "cats/1.jpg": "cats", "dogs/2.jpg": "dogs"}
    assert [file.path for file in listing.files] == ["cats/0.PNG", "cats/1.jpg", "dogs/2.jpg"]
    assert listing.classes == ("cats", "dogs")
    assert listing.per_class == {"cats": 2, "dogs": 1}
    assert listing.files[0].uri == "/data/cats/0.PNG"
    assert listing.size_bytes == 30
    assert not listing.has_given_split


@given(st.permutations(["b/1.jpg", "a/1.jpg", "C/1.jpg", "b/2.jpg", "a/10.jpg"]))
def test_the_class_order_does_not_depend_on_the_order_of_the_listing(paths: list[str]) -> None:
    assert arranged(*paths).classes == ("C", "a", "b")


def test_labels_that_differ_in_case_or_are_unicode_are_never_merged() -> None:
    listing = arranged("Cat/1.jpg", "cat/1.jpg", "café/1.jpg", "猫/1.jpg")
    assert listing.classes == ("Cat", "café", "cat", "猫")


PARTS = st.text("abAB.é猫", min_size=1, max_size=4).filter(lambda part: part not in (".", ".."))


@given(st.sets(st.lists(PARTS, min_size=1, max_size=4).map("/".join), min_size=1, max_size=12))
def test_every_file_is_either_an_image_or_ignored_and_none_is_both(paths: set[str]) -> None:
    listing = arranged(*paths, "one/1.jpg", "two/1.jpg")
    assert sorted([*(file.path for file in listing.files), *listing.ignored]) == sorted(
        {*paths, "one/1.jpg", "two/1.jpg"}
    )
    assert all(file.label == file.path.split("/")[0] for file in listing.files)
    assert len({file.path.casefold() for file in listing.files}) <= len(listing.files)


def test_groups_are_what_the_expression_finds_in_the_path() -> None:
    listing = arranged("a/p1_0.jpg", "a/p1_1.jpg", "b/p2_0.jpg", "b/other.jpg", group_by=r"/(p\d+)_")
    assert [file.group for file in listing.files] == ["p1", "p1", "", "p2"]
    assert dict(listing.understood)["groups"] == "2; 1 images in none"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("p(", "no regular expression"), ("p1", "needs one group, and has 0"), ("(x)(y)", "has 2"), ("(q)", "no file")],
)
def test_a_group_expression_that_cannot_work_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        arranged("a/p1.jpg", "b/p2.jpg", group_by=pattern)


@pytest.mark.parametrize(
    "options",
    [SourceOptions(image_column="x"), SourceOptions(label_columns=("x",)), SourceOptions(split_column="x")],
)
def test_columns_of_class_folders_are_refused(options: SourceOptions) -> None:
    file = Found(path="a/1.jpg", uri="/a/1.jpg", address="/a/1.jpg", size_bytes=1)
    with pytest.raises(UsageError, match="--label-column"):
        arrange(Tree(source="/data", files=(file,)), options)


def test_what_was_understood_is_told() -> None:
    rows = dict(arranged("train/a/1.jpg", "train/b/1.jpg", "train/b/2.jpg", "val/a/2.jpg").understood)
    assert rows["kind"] == "class folders"
    assert rows["classes"] == "2: a 2, b 2"
    assert rows["given split"] == "train 3, val 1"
    assert rows["examples"].startswith("train/a/1.jpg is a; ")


def test_two_spellings_of_one_file_name_are_one_file() -> None:
    listing = arranged("a/x.jpg", "a/X.JPG", "a/y.JPG", "b/x.jpg")
    assert [file.path for file in listing.files] == ["a/X.JPG", "a/y.JPG", "b/x.jpg"]
    assert listing.ignored == ("a/x.jpg",)


@pytest.mark.parametrize(
    "litter",
    [
        "cats/.hidden.jpg",
        ".git/1.jpg",
        "cats/.ipynb_checkpoints/1-checkpoint.jpg",
        "__MACOSX/cats/1.jpg",
        "cats/Thumbs.db",
        "cats/.DS_Store",
        "cats/desktop.ini",
        "cats/notes.txt",
        "cats/labels.CSV",
        "cats/box.xml",
        "readme.md",
        "loose.jpg",
    ],
)
def test_litter_is_ignored_and_listed(litter: str) -> None:
    listing = arranged("cats/1.jpg", "dogs/1.jpg", litter)
    assert listing.ignored == (litter,)
    assert listing.classes == ("cats", "dogs")


@pytest.mark.parametrize("path", ["cats/1", "cats/1.jpeg", "cats/1.JPEG_large", "cats/1.heic", "cats/deep/er/1.jpg"])
def test_everything_else_is_for_the_decoder_to_judge(path: str) -> None:
    assert path in labels(arranged("dogs/1.jpg", path))


def test_split_folders_give_the_split() -> None:
    listing = arranged("train/a/1.jpg", "train/b/1.jpg", "Validation/a/2.jpg", "test/b/3.jpg", "test/loose.jpg")
    assert [(file.label, file.given_split) for file in listing.files] == [
        ("a", "val"),
        ("b", "test"),
        ("a", "train"),
        ("b", "train"),
    ]
    assert listing.classes == ("a", "b")
    assert listing.ignored == ("test/loose.jpg",)
    assert listing.has_given_split


def test_other_folders_beside_split_folders_are_ignored_and_listed() -> None:
    listing = arranged("train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "samples/1.jpg")
    assert listing.ignored == ("samples/1.jpg",)


def test_a_class_named_train_beside_other_classes_is_a_class() -> None:
    assert arranged("train/1.jpg", "bus/1.jpg", "tram/1.jpg").classes == ("bus", "train", "tram")


def test_two_folders_for_one_split_are_refused() -> None:
    with pytest.raises(UsageError, match="val, valid"):
        arranged("train/a/1.jpg", "val/a/1.jpg", "valid/a/1.jpg")


def test_split_folders_without_class_folders_hold_no_images() -> None:
    with pytest.raises(InputRefused, match="no images found"):
        arranged("train/1.jpg", "test/2.jpg")


def test_the_users_class_order_is_kept() -> None:
    assert arranged("a/1.jpg", "b/1.jpg", classes=("b", "a")).classes == ("b", "a")


@pytest.mark.parametrize(
    ("classes", "names"),
    [(("a", "b", "c"), "'c'"), (("a",), "'b'"), (("a", "B"), "'B'"), (("a", "b", "b"), "'b'")],
)
def test_class_names_that_do_not_match_the_folders_are_named(classes: tuple[str, ...], names: str) -> None:
    with pytest.raises(UsageError, match=names):
        arranged("a/1.jpg", "b/1.jpg", classes=classes)


def test_a_single_class_is_refused() -> None:
    with pytest.raises(InputRefused, match="single class, 'flowers'"):
        arranged("flowers/roses/1.jpg", "flowers/tulips/2.jpg")


def test_a_source_without_images_is_refused() -> None:
    for paths in ([], ["notes.txt"], ["loose.jpg"], ["cats/.hidden"]):
        with pytest.raises(InputRefused, match="no images found"):
            arranged(*paths)


# ----------------------------------------------------------------------------------------------- a real folder


def write(path: Path, data: bytes = b"data") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_a_local_folder_is_listed_as_find_would_count_it(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "a/2.JPG", "a/sub/3.jpeg", "b/ü é.jpg", "b/.hidden"):
        write(tmp_path / name)
    listing = list_source(str(tmp_path))
    assert [file.path for file in listing.files] == ["a/1.jpg", "a/2.JPG", "a/sub/3.jpeg", "b/ü é.jpg"]
    assert listing.ignored == ("b/.hidden",)
    assert all(read_file(file.uri) == b"data" and file.size_bytes == 4 for file in listing.files)
    assert list_source(f"file://{tmp_path}") == listing


def test_links_are_followed_once_and_a_link_to_nowhere_is_an_unreadable_file(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/1.jpg")
    source = tmp_path / "source"
    write(source / "a/1.jpg")
    (source / "b").symlink_to(tmp_path / "elsewhere")
    (source / "a/loop").symlink_to(source)
    (source / "a/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    listing = list_source(str(source))
    assert {file.path for file in listing.files} >= {"a/1.jpg", "a/gone.jpg"}
    assert listing.classes == ("a", "b")
    assert len(listing.files) == 3
    with pytest.raises(OSError):
        read_file(f"{source}/a/gone.jpg")


def test_pipes_and_names_that_are_no_text_are_ignored_and_listed(tmp_path: Path) -> None:
    write(tmp_path / "a/1.jpg")
    write(tmp_path / "b/1.jpg")
    os.mkfifo(tmp_path / "a/pipe.jpg")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/b/\xff.jpg")).write_bytes(b"data")
    assert list_source(str(tmp_path)).ignored == ("a/pipe.jpg", "b/\\xff.jpg")


def test_counts_are_those_of_find_whatever_the_spelling_of_the_ending(tmp_path: Path) -> None:
    """One walk, not a pattern per ending: on a file system that ignores case, two patterns count every file twice."""
    for number, ending in enumerate(("jpg", "jpeg", "JPG", "JPEG", "Jpg")):
        write(tmp_path / f"a/{number}.{ending}")
        write(tmp_path / f"b/{number}.{ending}")
    listing = list_source(str(tmp_path))
    assert len(listing.files) == len({file.path for file in listing.files}) == len(list(tmp_path.rglob("*.*")))


def test_wrong_sources_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        list_source(str(tmp_path / "none"))
    with pytest.raises(UsageError, match="not a folder"):
        list_source(str(write(tmp_path / "file.jpg")))
    with pytest.raises(InputRefused, match="no images found"):
        list_source(str(tmp_path))
    for uri in ("s3://", "gs://bucket/x"):
        with pytest.raises(UsageError):
            source_uri(uri)
