"""TFRecord files: every damage is noticed, features are found, and an image's address is exactly its bytes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tfrecords import Value, example_bytes, example_class, framed, write_tfrecord

from tljobs.data.sources import Listing, SourceOptions, list_source, read_file
from tljobs.data.sources.example import Span, bytes_feature, int64_feature, read_example, write_example
from tljobs.data.sources.framing import write_record
from tljobs.errors import InputRefused, UsageError

FEATURES = st.dictionaries(
    st.text(max_size=5),
    st.one_of(
        st.lists(st.binary(max_size=300), min_size=1, max_size=3),
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4),
        st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4),
    ),
    max_size=4,
)


def records(labels: list[Value], **more: list[Value]) -> list[dict[str, Value]]:
    """One example per label, each with an image of its own."""
    return [
        {"image/encoded": f"jpeg {number}".encode(), "image/class/label": label}
        | {name: values[number] for name, values in more.items()}
        for number, label in enumerate(labels)
    ]


def labels(listing: Listing) -> list[tuple[str, ...]]:
    return [file.labels for file in listing.files]


@given(FEATURES)
def test_examples_are_read_as_protobuf_wrote_them(features: dict[str, Value]) -> None:
    data = example_bytes(features)
    read = {
        name: [data[value.start : value.end] if isinstance(value, Span) else value for value in values]
        for name, values in read_example(data).items()
    }
    assert read == features


@given(
    st.dictionaries(st.text(max_size=5), st.lists(st.binary(max_size=300), max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=5), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4), max_size=3),
)
def test_examples_that_we_write_are_read_by_protobuf_and_by_us(
    texts: dict[str, list[bytes]], numbers: dict[str, list[int]]
) -> None:
    features = {name: bytes_feature(values) for name, values in texts.items()}
    data = write_example(features | {name: int64_feature(values) for name, values in numbers.items()})
    parsed = example_class().FromString(data).features.feature
    assert set(parsed) == texts.keys() | numbers.keys()
    for name, feature in parsed.items():
        kind, expected = ("int64list", numbers[name]) if name in numbers else ("byteslist", texts[name])
        assert feature.WhichOneof("kind") == kind
        assert list(getattr(feature, kind).value) == expected
    assert read_example(data).keys() == set(parsed)


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_records_that_we_write_are_framed_as_tensorflow_frames_them(records: list[bytes]) -> None:
    file = io.BytesIO()
    for record in records:
        write_record(file, record)
    assert file.getvalue() == b"".join(map(framed, records))


@given(st.binary(max_size=200))
def test_any_other_bytes_are_an_example_or_a_value_error(data: bytes) -> None:
    try:
        read_example(data)
    except ValueError as error:
        assert str(error)


def test_whole_numbers_are_classes_in_the_order_of_numbers(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "a.tfrecord", records([10, 2, 2, 10, 9]))
    listing = list_source(str(path))
    assert listing.classes == ("2", "9", "10")
    assert labels(listing) == [("10",), ("2",), ("2",), ("10",), ("9",)]
    assert listing.task == "single-label"
    assert [read_file(file.address) for file in listing.files] == [f"jpeg {number}".encode() for number in range(5)]
    assert [file.size_bytes for file in listing.files] == [6] * 5
    assert listing.files[1].uri == f"{path}!/record-00000002"
    assert "image: image/encoded; label: image/class/label" in dict(listing.understood)["columns"]


def test_class_texts_come_before_class_numbers_and_options_before_both(tmp_path: Path) -> None:
    more: dict[str, list[Value]] = {"image/class/text": ["cat", "dog", "cat"], "other": ["x", "y", "y"]}
    path = write_tfrecord(tmp_path / "a.tfrecord", records([0, 1, 0], **more))
    assert list_source(str(path)).classes == ("cat", "dog")
    assert list_source(str(path), SourceOptions(label_columns=("image/class/label",))).classes == ("0", "1")
    assert labels(list_source(str(path), SourceOptions(label_columns=("other",)))) == [("x",), ("y",), ("y",)]
    with pytest.raises(UsageError, match=r"no column 'othr': .* Did you mean 'other'\?"):
        list_source(str(path), SourceOptions(label_columns=("othr",)))


def test_lists_of_labels_are_several_labels_and_may_be_empty(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "a.tfrecord", records([[2, 1], [], [1]]))
    listing = list_source(str(path))
    assert (listing.task, labels(listing)) == ("multi-label", [("1", "2"), (), ("1",)])


def test_a_record_without_a_label_is_refused_where_the_others_have_one(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "a.tfrecord", records([2, [], 1, 2]))
    with pytest.raises(InputRefused, match=r"1 rows without a label .*: record 2 of"):
        list_source(str(path))
    assert labels(list_source(str(path), SourceOptions(label_separator="|")))[1] == ()


def test_a_folder_of_shards_gives_the_split_by_its_names(tmp_path: Path) -> None:
    for name, values in (("train-00000-of-00002", [0, 1]), ("train-00001-of-00002", [1]), ("validation-00000", [0])):
        write_tfrecord(tmp_path / f"{name}.tfrecord", records(list(values)))
    (tmp_path / "labels.txt").write_text("0:cat")
    listing = list_source(str(tmp_path))
    assert [file.given_split for file in listing.files] == ["train", "train", "train", "val"]
    assert listing.ignored == ("labels.txt",)
    assert listing.files[2].uri == f"{tmp_path}/train-00001-of-00002.tfrecord!/record-00000001"


def test_names_that_are_no_splits_give_none(tmp_path: Path) -> None:
    write_tfrecord(tmp_path / "train.tfrecord-00000-of-00001", records([0, 1]))
    write_tfrecord(tmp_path / "extra.tfrecord", records([0, 1]))
    assert not list_source(str(tmp_path)).has_given_split


@pytest.mark.parametrize("cut", [1, 4, 11, 12, 20])
def test_a_file_that_ends_too_soon_is_refused_with_its_place(tmp_path: Path, cut: int) -> None:
    path = write_tfrecord(tmp_path / "a.tfrecord", records([0, 1]))
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with pytest.raises(InputRefused, match=f"damaged TFRecord file: {path} at byte {len(whole) // 2}"):
        list_source(str(path))


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    whole = framed(example_bytes(records([0])[0]))
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(InputRefused, match="damaged TFRecord file"):
            list_source(str(path))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no images found"),
        (b"\x1f\x8b" + bytes(20), "compressed TFRecord"),
        (framed(b"no example at all"), "no tf.train.Example"),
        (framed(example_bytes({"image": [b"1", b"2"], "label": 1})), "holds no image"),
        (framed(example_bytes({"image": 1, "label": 1})), "holds no image"),
    ],
)
def test_what_holds_no_images_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.tfrecord").write_bytes(data)
    with pytest.raises(InputRefused, match=message):
        list_source(str(tmp_path / "a.tfrecord"))
