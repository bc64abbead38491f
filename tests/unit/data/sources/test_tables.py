"""Tables of images: formats, paths and URIs, images as bytes, metadata beside images, and one message per mistake."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tljobs.data.sources import Listing, SourceOptions, list_source, read_file
from tljobs.data.sources.lookup import resolve
from tljobs.data.sources.reading import Place, address_of, place_of, within
from tljobs.errors import InputRefused, NotFound, UsageError
from tljobs.store import LocalStore

ROWS = [("images/1.jpg", "007"), ("images/2.jpg", "7"), ("images/3.jpg", "7"), ("images/4.jpg", "007")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images, each of other bytes."""
    for number in (1, 2, 3, 4):
        write(tmp_path / f"images/{number}.jpg", f"image {number}")
    return tmp_path


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def csv(folder: Path, *lines: str, name: str = "t.csv") -> Path:
    return write(folder / name, "\n".join(lines) + "\n")


def labels(listing: Listing) -> dict[str, str]:
    return {file.path: file.label for file in listing.files}


def options(*label_columns: str, **more: Any) -> SourceOptions:
    return SourceOptions(label_columns=label_columns, **more)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_the_same_rows_come_out_of_every_format(folder: Path, suffix: str) -> None:
    path = folder / f"t.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"file": [row[0] for row in ROWS], "label": [row[1] for row in ROWS]}), path)
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps({"file": file, "label": label}) + "\n" for file, label in ROWS))
    else:
        csv(
            folder,
            *(("," if suffix == "csv" else "\t").join(row) for row in [("file", "label"), *ROWS]),
            name=path.name,
        )
    listing = list_source(str(path))
    assert labels(listing) == dict(ROWS)
    assert listing.classes == ("007", "7")
    assert [(file.uri, file.address, file.size_bytes) for file in listing.files] == [
        (f"{folder}/{row[0]}", f"{folder}/{row[0]}", 7) for row in ROWS
    ]
    assert (
        dict(listing.understood)["kind"]
        == f"table {path} ({suffix.upper() if suffix != 'parquet' else 'Parquet'}), 4 rows, single-label"
    )
    assert dict(listing.understood)["classes"] == "2: 007 2, 7 2"


def test_a_table_of_a_spreadsheet_on_windows(folder: Path) -> None:
    """With a byte order mark, semicolons, \\r\\n, backslashes, quotes, an empty line, and names in another case."""
    lines = [
        "\ufefffile;label",
        "images\\1.jpg;a",
        "",
        '"IMAGES\\2.JPG";"a;b"',
        ".\\images\\3.JPG;a",
        'images/4.jpg;"a;b"',
    ]
    text = "\r\n".join(lines)
    listing = list_source(str(write(folder / "t.csv", text)))
    assert labels(listing) == {f"images/{n}.jpg": label for n, label in ((1, "a"), (2, "a;b"), (3, "a"), (4, "a;b"))}
    assert all(file.size_bytes == 7 for file in listing.files)


def test_absolute_paths_and_file_uris_are_read_where_they_say(folder: Path, tmp_path: Path) -> None:
    odd = write(tmp_path / "else where/ü 1.jpg", "else")
    path = csv(
        folder / "deep/er",
        "path,label",
        f"file://{tmp_path}/else%20where/%C3%BC%201.jpg,a",
        f"{folder}/images/1.jpg,b",
        "../../images/2.jpg,b",
    )
    listing = list_source(str(path))
    assert {file.uri: file.label for file in listing.files} == {
        str(odd): "a",
        f"{folder}/images/1.jpg": "b",
        f"{folder}/images/2.jpg": "b",
    }
    assert all(file.size_bytes for file in listing.files)


def test_a_missing_image_is_listed_with_no_bytes_and_fails_when_it_is_read(folder: Path) -> None:
    listing = list_source(str(csv(folder, "file,label", "images/1.jpg,a", "images/9.jpg,b", "images/2.jpg,a")))
    assert [file.size_bytes for file in listing.files] == [7, 7, 0]
    with pytest.raises(OSError):
        read_file(listing.files[2].address)


def test_several_labels_by_columns_by_separator_and_by_lists(folder: Path) -> None:
    flags = csv(folder, "file,cat,dog,bird", "images/1.jpg,1,1,0", "images/2.jpg,0,0,0", "images/3.jpg,0,1,0")
    by_columns = list_source(str(flags), options("dog", "cat"))
    assert (by_columns.task, by_columns.classes) == ("multi-label", ("dog", "cat"))
    assert [file.labels for file in by_columns.files] == [("dog", "cat"), (), ("dog",)]
    assert by_columns.per_class == {"dog": 2, "cat": 1}
    assert "without any label 1" in dict(by_columns.understood)["classes"]
    texts = csv(folder, "file,labels", "images/1.jpg,cat|dog", "images/2.jpg,", "images/3.jpg,dog")
    by_separator = list_source(str(texts), SourceOptions(label_separator="|", classes=("dog", "cat")))
    assert [file.labels for file in by_separator.files] == [file.labels for file in by_columns.files]
    table = pa.table({"file": [f"images/{n}.jpg" for n in (1, 2, 3)], "labels": [["cat", "dog"], None, ["dog"]]})
    pq.write_table(table, folder / "t.parquet")
    by_lists = list_source(str(folder / "t.parquet"), SourceOptions(classes=("dog", "cat")))
    assert by_lists.files == by_separator.files == by_columns.files
    with pytest.raises(ValueError):
        _ = by_lists.files[0].label


def test_splits_and_groups_come_from_columns(folder: Path) -> None:
    path = csv(
        folder,
        "file,label,Split,patient",
        "images/1.jpg,a,Train,p1",
        "images/2.jpg,a,validation,",
        "images/3.jpg,b,TEST,p2",
    )
    listing = list_source(str(path), SourceOptions(group_by="patient"))
    assert [file.given_split for file in listing.files] == ["train", "val", "test"]
    assert [file.group for file in listing.files] == ["p1", "", "p2"]


def test_equal_rows_are_counted_and_contradictory_ones_refused(folder: Path) -> None:
    path = csv(folder, "file,label", "images/1.jpg,a", "images/2.jpg,b", "images/1.jpg,a")
    listing = list_source(str(path))
    assert len(listing.files) == 3
    assert "1 repeated rows" in dict(listing.understood)["kind"]
    csv(folder, "file,label", "images/1.jpg,a", "images/2.jpg,b", "images/1.jpg,b")
    with pytest.raises(InputRefused, match=f"two rows of one image disagree: .*row 2 of {path} and row 4 of {path}"):
        list_source(str(path))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no images found"),
        (["file,label"], "no images found"),
        (["file,label", "1.jpg,a", "2.jpg", "3.jpg,b"], r"1 rows with another number of fields.*row 3 of .*It has 1"),
        (["file,label", "1.jpg,a", "2.jpg,b,c"], r"row 3 of .*It has 3: '2.jpg,b,c'"),
        (["file,label", "1.jpg,a", ",b"], r"1 rows without an image in column 'file': row 3 of"),
        (["file,label", "1.jpg,a", "2.jpg,"], r"1 rows without a label in column 'label': row 3 of"),
        (["file,label", "1.jpg,a", "2.jpg,b", "3.jpg,c"], "every row has another label"),
        (["file,label", "1.jpg,a", "2.jpg,a"], "a single class, 'a'"),
        (["file,label,split", "1.jpg,a,train", "2.jpg,b,fold1"], "column 'split' holds what is no split: 'fold1'"),
        (["file,label,split", "1.jpg,a,train", "2.jpg,b,"], "holds what is no split: ''"),
        (["file,label", "http://x/1.jpg,a", "2.jpg,b"], r"cannot be read from here, 'http://x/1.jpg': row 2 of"),
        (["file,label", "C:\\x\\1.jpg,a", "2.jpg,b"], "cannot be read from here"),
        (["file,label,label", "1.jpg,a,b"], "several columns of one name"),
        (["file,label", "images,a", "2.jpg,b"], "no regular file"),
        (["file,label", '"1.jpg,a', "2.jpg,b"], "."),
    ],
)
def test_a_bad_table_is_refused_with_the_row(folder: Path, lines: Sequence[str], message: str) -> None:
    with pytest.raises(InputRefused, match=message):
        list_source(str(csv(folder, *lines)))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.csv", "file,label\n1.jpg,é\n".encode("latin-1"), "no UTF-8"),
        ("t.csv", "file,label\n1.jpg,a\n".encode("utf-16"), "no UTF-8"),
        ("t.jsonl", b'{"file": "1.jpg", "label": "a"}\n{"file": \n', r"no JSON object: line 2 of"),
        ("t.jsonl", b'["1.jpg", "a"]\n', r"no JSON object: line 1 of"),
        ("t.jsonl", b'{"file": "\xff"}\n', "no JSON object"),
        ("t.parquet", b"PAR1 and no more", "no readable Parquet"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(folder: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(InputRefused, match=message):
        list_source(str(write(folder / name, data)))


@pytest.mark.parametrize(
    ("name", "message"), [("1\\u0000.jpg", r"whose name is no text.*row 2 of"), ("1\\uD800.jpg", "line 2 of")]
)
def test_a_name_that_no_file_can_have_is_refused_by_its_row(folder: Path, name: str, message: str) -> None:
    write(folder / "t.jsonl", f'{{"file": "1.jpg", "label": "a"}}\n{{"file": "{name}", "label": "b"}}\n')
    with pytest.raises(InputRefused, match=message):
        list_source(str(folder / "t.jsonl"))


def test_wrong_options_are_a_wrong_usage(folder: Path) -> None:
    path = str(csv(folder, "file,label", *(",".join(row) for row in ROWS)))
    for wrong in (options("lable"), SourceOptions(split_column="x"), SourceOptions(classes=("7", "8"))):
        with pytest.raises(UsageError):
            list_source(path, wrong)
    with pytest.raises(NotFound):
        list_source(str(folder / "none.csv"))


# ------------------------------------------------------------------------------------- images in a Parquet table


@pytest.mark.parametrize("as_struct", [False, True])
def test_images_in_a_table_get_addresses_of_their_own(folder: Path, as_struct: bool) -> None:
    images: list[Any] = [b"one", b"two two", None, b"four"]
    column = pa.array(images, pa.binary())
    if as_struct:
        cells = [{"bytes": data, "path": f"{number}.jpg"} for number, data in enumerate(images)]
        column = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": column, "label": [3, 10, 3, 10]}), folder / "t.parquet")
    listing = list_source(str(folder / "t.parquet"), store=LocalStore(folder / "store"))
    assert [read_file(file.address) for file in listing.files] == [b"one", b"two two", b"", b"four"]
    assert [file.uri for file in listing.files][1] == f"{folder}/t.parquet!/row-00000002"
    assert listing.classes == ("3", "10")
    with pytest.raises(UsageError, match="needs a store"):
        list_source(str(folder / "t.parquet"))


def test_a_hugging_face_table_keeps_its_class_names_and_its_paths(folder: Path) -> None:
    cells = [{"bytes": None, "path": row[0]} for row in ROWS]
    column = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    table = pa.table({"image": column, "label": [0, 1, 1, 0]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, folder / "t.parquet")
    listing = list_source(str(folder / "t.parquet"))
    assert labels(listing) == dict(zip([row[0] for row in ROWS], ["cat", "dog", "dog", "cat"], strict=True))


# ------------------------------------------------------------------------------------ metadata.csv in a folder


def test_metadata_beside_the_images_labels_them(folder: Path) -> None:
    csv(folder, "file_name,label", *(",".join(row) for row in ROWS[:3]), name="metadata.csv")
    listing = list_source(str(folder))
    assert labels(listing) == dict(ROWS[:3])
    assert listing.ignored == ("images/4.jpg",)
    assert not listing.has_given_split


def test_metadata_below_split_folders_gives_the_split_too(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        for number in (1, 2):
            write(tmp_path / split / f"{number}.jpg", "x")
        csv(tmp_path / split, "file_name,label", "1.jpg,a", "2.jpg,b", name="metadata.csv")
    listing = list_source(str(tmp_path))
    assert [(file.path, file.given_split) for file in listing.files] == [
        ("train/1.jpg", "train"),
        ("train/2.jpg", "train"),
        ("validation/1.jpg", "val"),
        ("validation/2.jpg", "val"),
    ]
    csv(tmp_path / "validation", "file_name,text", "1.jpg,a", "2.jpg,b", name="metadata.csv")
    with pytest.raises(InputRefused, match="tables with different columns"):
        list_source(str(tmp_path))
    csv(tmp_path / "validation", "file_name,label", "1.jpg,a", "2.jpg,", name="metadata.csv")
    with pytest.raises(InputRefused, match=r"row 3 of .*/validation/metadata\.csv"):
        list_source(str(tmp_path))


def test_one_metadata_above_split_folders_gives_the_split_too(tmp_path: Path) -> None:
    files = ["train/1.jpg", "train/2.jpg", "test/3.jpg"]
    for file in files:
        write(tmp_path / file, "x")
    csv(
        tmp_path,
        "file_name,label",
        *(f"{file},{'ab'[number % 2]}" for number, file in enumerate(files)),
        name="metadata.csv",
    )
    assert [file.given_split for file in list_source(str(tmp_path)).files] == ["test", "train", "train"]


def test_a_metadata_without_labels_beside_class_folders_is_left_alone(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/1.jpg"):
        write(tmp_path / name, "x")
    csv(tmp_path, "file_name,camera", "a/1.jpg,x", name="metadata.csv")
    listing = list_source(str(tmp_path))
    assert listing.classes == ("a", "b")
    assert listing.ignored == ("metadata.csv",)


# ---------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("text", "folder", "expected"),
    [
        ("1.jpg", "/data", "/data/1.jpg"),
        ("./a/../1.jpg", "/data", "/data/1.jpg"),
        ("a\\1.jpg", "s3://bucket/x", "s3://bucket/x/a/1.jpg"),
        ("../1.jpg", "s3://bucket/x", "s3://bucket/1.jpg"),
        ("s3://other/a\\b.jpg", "/data", "s3://other/a\\b.jpg"),
        ("/abs/1.jpg", "s3://bucket/x", "/abs/1.jpg"),
        ("file:///abs/a%20b.jpg", "/data", "/abs/a b.jpg"),
    ],
)
def test_paths_in_a_table_mean_files(text: str, folder: str, expected: str) -> None:
    assert resolve(text, folder) == expected


@given(st.text(min_size=1, max_size=20), st.integers(0, 2**60), st.none() | st.integers(0, 2**60))
def test_addresses_come_back_unchanged(name: str, offset: int, length: int | None) -> None:
    place = Place(f"/{name}", offset if length is not None else 0, length)
    assert place_of(address_of(place)) == place
    if length is not None:
        inner = place_of(within(address_of(place), 5, 3))
        assert inner == Place(f"/{name}", offset + 5, 3)


def test_a_piece_of_a_file_is_read_alone_and_a_short_one_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "pack", b"0123456789")
    assert read_file(address_of(Place(str(path), 3, 4))) == b"3456"
    with pytest.raises(OSError, match="ends before byte 12"):
        read_file(address_of(Place(str(path), 8, 4)))
