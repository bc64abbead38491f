"""Folders that are made once and then only read: demo photos and what they are made from.

In: the folder's place and a function that fills it. Out: the complete folder, or none. The name of such a folder says
what is in it (a hash of its inputs), so nothing in it is ever out of date.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from tljobs.errors import Unreachable


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Returns `folder`. If it is not there, `make` fills an empty folder beside it, which then takes its name.

    Of several processes that make the same folder at a time, one wins and the others use its result. Raises
    Unreachable when the disk refuses; whatever `make` raises leaves nothing behind.
    """
    if folder.is_dir():
        return folder
    draft = folder.parent / f".tmp-{secrets.token_hex(8)}"
    try:
        draft.mkdir(parents=True)
        make(draft)
        _take_name(draft, folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise Unreachable("the cache folder cannot be used", str(folder), f"The system says: {reason}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _take_name(draft: Path, folder: Path) -> None:
    try:
        draft.rename(folder)
    except OSError:
        # Another process was faster: a folder with something in it is never replaced by a rename.
        if not folder.is_dir():
            raise
