"""A local folder that a command makes for the user: refused where something is, and there only when it is complete."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tljobs.errors import NameTaken, Unreachable, UsageError


def free_folder(text: str, what: str) -> Path:
    """The absolute path of `--out`. Raises UsageError for a URI, NameTaken when the folder has something in it."""
    if "://" in text:
        raise UsageError(f"{what} is exported to a local folder", text, "Export it here and copy it")
    out = Path(text).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise NameTaken("the output exists already", text, "Name a new or empty folder with --out")
    return out


@contextmanager
def new_folder(out: Path, what: str) -> Iterator[Path]:
    """A draft folder beside `out`, to be filled; it becomes `out` at the end, or disappears with an exception.

    Raises Unreachable where it cannot be written.
    """
    draft = out.with_name(f".{out.name}.{secrets.token_hex(8)}")
    try:
        draft.mkdir(parents=True)
        yield draft
        draft.replace(out)
    except OSError as error:
        raise Unreachable(f"{what} cannot be written", str(out), error.strerror or str(error)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
