import inspect
import posixpath
from collections.abc import Callable

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tljobs import layout
from tljobs.errors import UsageError

VALID_IDS = st.from_regex(layout.ID_PATTERN, fullmatch=True)
ANY_TEXT = st.one_of(st.text(max_size=80), st.text("./-_ab\\~\n\0", max_size=70))
KEY_FUNCTIONS = [
    function
    for name, function in inspect.getmembers(layout, inspect.isfunction)
    if function.__module__ == "tljobs.layout" and name != "checked_id"
]


def key_of(function: Callable[..., str], text: str, number: int) -> str:
    """The key with `text` for every text argument and `number` for every number."""
    arguments = inspect.signature(function).parameters.values()
    return function(*(text if argument.annotation == "str" else number for argument in arguments))


@given(ANY_TEXT)
@example("..")
@example("../../etc/passwd")
@example("a/b")
@example("a\n")
@example("A")
@example("")
@example("x" * 64)
def test_no_other_text_becomes_an_id(text: str) -> None:
    assume(not layout.ID_PATTERN.fullmatch(text))
    with pytest.raises(UsageError, match="invalid name"):
        layout.checked_id(text)


@given(ANY_TEXT, st.integers(0, 10**9))
@example("..", 0)
@example("a/../../b", 0)
def test_no_hostile_text_becomes_part_of_a_key(text: str, number: int) -> None:
    assume(not layout.ID_PATTERN.fullmatch(text))
    for function in KEY_FUNCTIONS:
        if "str" in {argument.annotation for argument in inspect.signature(function).parameters.values()}:
            with pytest.raises(UsageError):
                key_of(function, text, number)


@given(VALID_IDS, st.integers(0, 10**9))
@example("a..b", 0)
def test_every_key_is_a_plain_relative_path_below_a_known_place(text: str, number: int) -> None:
    for function in KEY_FUNCTIONS:
        key = key_of(function, text, number)
        assert posixpath.normpath(key) == key.rstrip("/")
        assert key.split("/")[0] in {"datasets", "runs", "searches", "staging"}


def test_keys_of_different_things_differ() -> None:
    keys = [key_of(function, "a", 1) for function in KEY_FUNCTIONS]
    assert len(set(keys)) == len(keys)


def test_numbers_keep_their_order_as_text() -> None:
    assert layout.run_event("r", 9) < layout.run_event("r", 10) < layout.run_event("r", 99_999)
    assert layout.run_checkpoint("r", 9, 1) < layout.run_checkpoint("r", 10, 1)
    assert layout.dataset_shard("d", "v", "train", 9, 11) < layout.dataset_shard("d", "v", "train", 10, 11)


def test_a_shard_says_which_of_how_many_it_is() -> None:
    assert layout.dataset_shard("photos", "v1", "val", 2, 7) == "datasets/photos/v1/shards/val-00002-of-00007.parquet"
