"""Labels from cells, and which columns hold them: rules on values alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tljobs.data.sources.columns import TABLE_NAMES, TFRECORD_NAMES, choose_columns
from tljobs.data.sources.labels import Labels, class_order, read_labels
from tljobs.data.sources.model import SourceOptions
from tljobs.errors import InputRefused, UsageError

NAMES = st.text("abC0é ", min_size=1, max_size=3).filter(lambda name: name.strip() == name and name != "")


def where(row: int) -> str:
    return f"row {row + 1}"


def labels(separator: str | None = None, **columns: list[object]) -> Labels:
    return read_labels(columns, separator, where)


def test_labels_are_text_exactly_as_written() -> None:
    read = labels(label=["007", "7", "Cat", "cat", "cat "] * 2)
    assert read.classes == ("007", "7", "Cat", "cat", "cat ")
    assert read.rows[:2] == [("007",), ("7",)]


def test_whole_numbers_are_ordered_as_numbers_and_texts_as_texts() -> None:
    assert labels(label=[10, 9, 2, 2]).classes == ("2", "9", "10")
    assert labels(label=["10", "9", "2", "2"]).classes == ("10", "2", "9")


@given(st.lists(NAMES, min_size=1, max_size=12), st.randoms())
def test_the_classes_do_not_depend_on_the_order_of_the_rows(names: list[str], random: object) -> None:
    twice = names * 2
    shuffled = sorted(twice, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert labels(label=list(twice)).classes == labels(label=list(shuffled)).classes == tuple(sorted(set(names)))


@given(st.lists(st.lists(NAMES, max_size=4), min_size=1, max_size=8))
def test_lists_separators_and_columns_of_flags_say_the_same(rows: list[list[str]]) -> None:
    names = sorted({name for row in rows for name in row})
    from_lists = labels(label=list(rows))
    assert from_lists == labels("|", label=[" | ".join(row) for row in rows])
    assert (from_lists.task, from_lists.classes) == ("multi-label", tuple(names))
    if len(names) > 1:
        flags: dict[str, list[object]] = {name: [int(name in row) for row in rows] for name in names}
        assert from_lists.rows == read_labels(flags, None, where).rows


def test_flags_may_be_written_in_several_ways_and_columns_keep_their_order() -> None:
    read = labels(b=["0", "1.0", "true"], a=[True, 0, 1.0])
    assert (read.classes, read.rows) == (("b", "a"), [("a",), ("b",), ("b", "a")])


@pytest.mark.parametrize("flag", ["2", "-1", "", None, "yes", 0.5])
def test_what_is_neither_0_nor_1_is_refused_by_row_and_column(flag: object) -> None:
    with pytest.raises(InputRefused, match="in label column 'b' is neither 0 nor 1: row 2"):
        labels(a=[0, 1], b=[1, flag])


@pytest.mark.parametrize("empty", ["", "  ", None, float("nan")])
def test_rows_without_a_label_are_refused_with_their_number_and_places(empty: object) -> None:
    message = r"4 rows without a label in column 'label': row 2, row 3, row 4, … \(1 more\)"
    with pytest.raises(InputRefused, match=message):
        labels(label=["a", empty, empty, empty, "b", empty])


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["1.jpg", "2.jpg", "3.jpg"], "every row has another label"),
        ([1, 0.5, 0.5], "'0.5' in label column 'label' is no label: row 2"),
        ([{"a": 1}, {"a": 1}], "is no label"),
        ([["a", ""], ["b"]], "empty labels"),
    ],
)
def test_columns_that_are_no_labels_are_refused(cells: list[object], message: str) -> None:
    with pytest.raises(InputRefused, match=message):
        labels(label=cells)


def test_a_separator_for_lists_is_a_wrong_usage() -> None:
    with pytest.raises(UsageError, match="'label' holds lists"):
        labels("|", label=[["a"], ["b"]])


def test_class_names_given_must_be_those_found() -> None:
    assert class_order(("a", "b"), ("b", "a"), "t.csv", "labels of t.csv") == ("b", "a")
    with pytest.raises(UsageError, match=r"--classes does not match the labels of t\.csv; missing: 'b'"):
        class_order(("a", "b"), ("a",), "t.csv", "labels of t.csv")


# ------------------------------------------------------------------------------------------------------ columns


@pytest.mark.parametrize("image", ["image", "file", "File_Name", "filename", "path", "uri"])
@pytest.mark.parametrize("label", ["label", "Labels", "class", "category"])
def test_usual_names_are_found_by_themselves(image: str, label: str) -> None:
    columns = choose_columns(["age", label, image, "Split"], SourceOptions(), TABLE_NAMES, "t.csv")
    assert (columns.image, columns.labels, columns.split, columns.unused) == (image, (label,), "Split", ("age",))
    assert columns.text() == f"image: {image}; label: {label}; split: Split; group: none; not used: age"


def test_options_overrule_usual_names() -> None:
    options = SourceOptions(image_column="x", label_columns=("a", "b"), split_column="part", group_by="patient")
    names = ["image", "label", "split", "x", "a", "b", "part", "patient"]
    columns = choose_columns(names, options, TABLE_NAMES, "t.csv")
    assert (columns.image, columns.labels, columns.split, columns.group) == ("x", ("a", "b"), "part", "patient")


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["image", "text"], SourceOptions(), "no column of a usual name holds the label: image, text in t.csv"),
        (["a", "label"], SourceOptions(), "no column of a usual name holds the image"),
        (["image", "label", "class"], SourceOptions(), "several columns may hold the label: label, class"),
        (["image", "file", "label"], SourceOptions(), "several columns may hold the image: image, file"),
        (["image", "label"], SourceOptions(label_columns=("lable",)), "no column 'lable'.*Did you mean 'label'"),
        (["image", "label"], SourceOptions(group_by="patient"), "no column 'patient'"),
        (["image", "label"], SourceOptions(label_columns=("image",)), "one column for two purposes"),
        (["image", "label"], SourceOptions(label_columns=("label", "label")), "one column for two purposes"),
    ],
)
def test_columns_that_cannot_be_chosen_are_a_wrong_usage(
    names: list[str], options: SourceOptions, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        choose_columns(names, options, TABLE_NAMES, "t.csv")


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(InputRefused, match="several columns of one name: label"):
        choose_columns(["image", "label", "label"], SourceOptions(), TABLE_NAMES, "t.csv")


def test_the_features_of_a_tfrecord_file_have_ranks() -> None:
    names = ["image/class/label", "image/class/text", "image/encoded", "label"]
    columns = choose_columns(names, SourceOptions(), TFRECORD_NAMES, "t.tfrecord")
    assert (columns.image, columns.labels) == ("image/encoded", ("image/class/text",))
