"""What a user is told when something is wrong: what, where, what to do, and the exit code of the command.

Every class survives pickling (Ray carries errors between processes): the three texts are the exception's arguments.
"""

from __future__ import annotations

from typing import ClassVar


class TljobsError(Exception):
    """An error with a message for the user. Subclasses fix the exit code; nothing else differs between them.

    Args:
        what: one sentence without a final full stop: what is wrong.
        where: the file, option, key or address it concerns; may be empty.
        hint: what to do about it; may be empty.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, where: str = "", hint: str = "") -> None:
        super().__init__(what, where, hint)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.what}: {self.where}" if self.where else self.what
        return f"{text.rstrip('.')}{'' if text.endswith(('?', '!')) else '.'} {self.hint}" if self.hint else text


class UsageError(TljobsError):
    """Wrong usage: an option, a spec, or a combination of them that cannot work (exit code 2)."""

    exit_code = 2


class InputRefused(TljobsError):
    """The user's images, labels or model file are not acceptable (exit code 3)."""

    exit_code = 3


class NotFound(TljobsError):
    """No such dataset, run, search, model or key (exit code 4)."""

    exit_code = 4


class NameTaken(TljobsError):
    """The name already stands for something else (exit code 4)."""

    exit_code = 4


class Unreachable(TljobsError):
    """The store or the cluster cannot be reached, refuses us, or has no room left (exit code 5)."""

    exit_code = 5


class Stopped(TljobsError):
    """Ended because somebody asked for it; what was done is saved (exit code 6)."""

    exit_code = 6


class TooManyFailures(TljobsError):
    """Finished, but more parts failed than allowed (exit code 7)."""

    exit_code = 7


class TrainingDiverged(TljobsError):
    """Training itself went wrong: a loss that is no number, workers that no longer agree (exit code 1)."""
