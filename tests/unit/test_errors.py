import pickle

import pytest

from tljobs import errors
from tljobs.errors import TljobsError

EXIT_CODES = {
    "TljobsError": 1,
    "TrainingDiverged": 1,
    "UsageError": 2,
    "InputRefused": 3,
    "NotFound": 4,
    "NameTaken": 4,
    "Unreachable": 5,
    "Stopped": 6,
    "TooManyFailures": 7,
}
CLASSES = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, TljobsError)]


def test_every_class_has_its_documented_exit_code() -> None:
    assert {each.__name__: each.exit_code for each in CLASSES} == EXIT_CODES


@pytest.mark.parametrize("error_class", CLASSES)
def test_survives_pickling(error_class: type[TljobsError]) -> None:
    error = error_class("no such run", "r1", "Runs: r2")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - how Ray carries errors between processes
    assert type(copy) is error_class
    assert (copy.what, copy.where, copy.hint, copy.exit_code) == ("no such run", "r1", "Runs: r2", error.exit_code)
    assert str(copy) == str(error)


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        (("it broke",), "it broke"),
        (("no such run", "r1"), "no such run: r1"),
        (("no such run", "r1", "Runs: r2"), "no such run: r1. Runs: r2"),
        (("it broke", "", "Mend it"), "it broke. Mend it"),
    ],
)
def test_shows_what_where_and_hint_in_one_line(texts: tuple[str, ...], shown: str) -> None:
    assert str(TljobsError(*texts)) == shown
