"""What users once had to get right by hand, and can no longer get wrong: none of it is an option."""

from __future__ import annotations

import pytest

from tljobs.cli import run
from tljobs.specs import DoctorSpec, EvaluateSpec, ExportSpec, PredictSpec, PrepareSpec, Spec, TrainSpec, TuneSpec

SPECS: tuple[type[Spec], ...] = (PrepareSpec, TrainSpec, TuneSpec, EvaluateSpec, PredictSpec, ExportSpec, DoctorSpec)
GONE = (
    *("shuffle", "rescale", "input_mean", "input_std", "input_layer", "output_layer", "preprocessing_function"),
    *("steps_per_epoch", "validation_steps", "input_shape", "is_training", "channel_order", "class_weight", "labels"),
    *("loss", "activation", "metrics"),
)


@pytest.mark.parametrize("name", GONE)
def test_no_spec_has_the_field(name: str) -> None:
    assert not [spec.__name__ for spec in SPECS if name in spec.model_fields]


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "shapes", "--shuffle"),
        ("train", "shapes", "--rescale", "1/255"),
        ("train", "shapes", "--steps-per-epoch", "3"),
        ("evaluate", "run", "--shuffle"),
        ("predict", "run", "photo.jpg", "--input-mean", "127"),
        ("predict", "run", "photo.jpg", "--labels", "labels.txt"),
    ],
)
def test_the_command_line_refuses_it(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    option = next(argument for argument in arguments if argument.startswith("--"))
    assert run(list(arguments)) == 2
    assert option in capsys.readouterr().err
