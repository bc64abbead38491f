import inspect

import pytest
from pydantic import ValidationError

from tljobs import specs
from tljobs.specs import NOT_PART_OF_REQUEST, PredictSpec, PrepareSpec, Spec, TrainSpec, TuneSpec

SPECS = [each for _, each in inspect.getmembers(specs, inspect.isclass) if issubclass(each, Spec) and each is not Spec]


@pytest.mark.parametrize("spec", SPECS)
def test_every_option_explains_itself_in_a_sentence(spec: type[Spec]) -> None:
    for name, field in spec.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="unfreez"):
        TrainSpec.model_validate({"dataset": "d", "unfreez": "2"})


def test_a_spec_cannot_be_changed_afterwards() -> None:
    spec = TrainSpec(dataset="d")
    with pytest.raises(ValidationError, match="frozen"):
        spec.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize("split", ["80/10/10", "0/50/50", "100/0/0"])
def test_a_split_of_three_percentages_is_taken(split: str) -> None:
    assert PrepareSpec(source="s", name="n", split=split).split == split


@pytest.mark.parametrize(
    ("asked", "stored"),
    [("white", "#ffffff"), ("#FF8800", "#ff8800"), ("#f80", "#ff8800"), ("rgb(1, 2, 3)", "#010203")],
)
def test_a_background_is_kept_as_its_red_green_and_blue(asked: str, stored: str) -> None:
    assert PrepareSpec(source="s", name="n", background=asked).background == stored


@pytest.mark.parametrize("asked", ["whitish", "#ff", "", "255,255,255"])
def test_a_background_that_is_no_colour_is_refused(asked: str) -> None:
    with pytest.raises(ValidationError, match="a colour such as"):
        PrepareSpec(source="s", name="n", background=asked)


@pytest.mark.parametrize("split", ["80/10", "80/10/20", "80,10,10", "80/10/-10", "33.3/33.3/33.4", "", "1e1/80/10"])
def test_any_other_split_is_refused(split: str) -> None:
    with pytest.raises(ValidationError, match="add up to 100"):
        PrepareSpec(source="s", name="n", split=split)


def test_classes_may_be_one_word_with_commas() -> None:
    for asked in (("cat,dog",), ["cat,dog"], ["cat", "dog"]):
        assert PrepareSpec.model_validate({"source": "s", "name": "n", "classes": asked}).classes == ("cat", "dog")
    assert PrepareSpec(source="s", name="n", classes=("a,b", "c")).classes == ("a,b", "c")


def test_a_separator_belongs_to_one_label_column() -> None:
    PrepareSpec(source="s", name="n", label_column=("a",), label_separator="|")
    with pytest.raises(ValidationError, match="label_separator needs one label_column"):
        PrepareSpec(source="s", name="n", label_column=("a", "b"), label_separator="|")


@pytest.mark.parametrize(
    "wrong",
    [
        {"global_batch": 32, "workers": 3},
        {"weight_decay": 0.1},
        {"epochs": 0},
        {"dropout": 1.0},
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"seed": -1},
        {"optimizer": "adamm"},
        {"image_size": 8},
        {"fine_tune_factor": 0},
    ],
)
def test_a_request_that_cannot_work_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TrainSpec.model_validate({"dataset": "d", **wrong})


def test_options_that_only_make_sense_together_are_taken_together() -> None:
    assert TrainSpec(dataset="d", optimizer="adamw", weight_decay=0.1).weight_decay == 0.1
    assert TrainSpec(dataset="d", global_batch=33, workers=3).workers == 3


@pytest.mark.parametrize(
    ("unfreeze", "depths"),
    [
        ("head", ()),
        ("2", ("2",)),
        ("1, 3,all", ("1", "3", "all")),
        ("head,all", ("all",)),
        ("", ()),
        ("block_12_add", ("block_12_add",)),
    ],
)
def test_depths_are_read_in_order_without_the_head(unfreeze: str, depths: tuple[str, ...]) -> None:
    assert TrainSpec(dataset="d", unfreeze=unfreeze).depths() == depths


def test_the_digest_of_a_request_ignores_only_where_and_how() -> None:
    request = TrainSpec(dataset="d").digest(NOT_PART_OF_REQUEST)
    same = TrainSpec(dataset="d", name="x", workers=2, device="cpu", max_failures=9, keep_pixels="none")
    assert same.digest(NOT_PART_OF_REQUEST) == request
    different = {"dataset": "e", "seed": 1, "learning_rate": 2e-3, "unfreeze": "3", "epochs": 11, "head": "512"}
    digests = {
        TrainSpec.model_validate({"dataset": "d", each: value}).digest(NOT_PART_OF_REQUEST)
        for each, value in different.items()
    }
    assert len(digests | {request}) == len(different) + 1


def test_fields_that_do_not_change_the_result_exist() -> None:
    assert set(TrainSpec.model_fields) >= NOT_PART_OF_REQUEST


@pytest.mark.parametrize(
    "spec",
    [
        PrepareSpec(source="s", name="n", classes=("b", "a")),
        TrainSpec(dataset="d", clip_norm=1.0),
        TuneSpec(dataset="d", learning_rate="1e-5:1e-2"),
        PredictSpec(model="m", inputs=("a.jpg",)),
    ],
)
def test_comes_back_from_json_unchanged(spec: Spec) -> None:
    copy = type(spec).model_validate_json(spec.model_dump_json())
    assert copy == spec
    assert copy.digest() == spec.digest()


def test_predict_needs_an_input() -> None:
    with pytest.raises(ValidationError, match="inputs"):
        PredictSpec(model="m", inputs=())
