"""Photos for the demo: flowers, stamps, or a folder of one's own; and one photo that is kept out of them.

In: a name and a cache folder. Out: a folder that `tljobs prepare` takes, and a photo of one of its classes that is
not in it, so that no training, no choice of an epoch and no score has seen it.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tljobs.data.cache import made_once
from tljobs.data.decode import BadImage, decode
from tljobs.data.flowers import FLOWERS, LIMITS, Archive, Limits, flower_photos
from tljobs.data.sources import SourceFile, list_source
from tljobs.data.stamps import stamp_photos
from tljobs.data.stamps_package import PACKAGE, stamps_folder
from tljobs.errors import InputRefused, NotFound, TljobsError, Unreachable
from tljobs.progress import Reporter

MAX_NAME = 40
JPEG_SUFFIXES = frozenset({".jpg", ".jpeg"})


@dataclass(frozen=True, kw_only=True)
class PhotoSet:
    """Photos for `prepare`. `folder` holds class folders, or such below train, val and test; `unseen` is a photo
    of one of the classes and not in `folder`. `name` may be part of a dataset's name; `source` and `licence` are texts
    for people."""

    folder: Path
    unseen: Path
    name: str
    source: str
    licence: str


@dataclass(frozen=True)
class Origins:
    """Where photos come from: the flowers' archive, how long to wait for it, and the root folder of this system."""

    flowers: Archive = FLOWERS
    limits: Limits = LIMITS
    root: Path = Path("/")


ORIGINS = Origins()


def photo_set(name: str, cache: Path, reporter: Reporter, origins: Origins = ORIGINS) -> PhotoSet:
    """The photos called `name`: `flowers`, `stamps`, or a folder of class folders. What is downloaded or made lies
    in `cache` and is used again.

    Raises NotFound for another name and where the stamps are not to be had, Unreachable when a download fails,
    InputRefused when what came is not what was published or a folder holds no class folders with images.
    """
    if name == "flowers":
        return _flowers(cache, reporter, origins)
    if name == "stamps":
        return _stamps(cache, reporter, origins)
    folder = Path(name).expanduser()
    if not folder.exists():
        raise NotFound("no such photos", name, "Use flowers, stamps, or a folder of class folders")
    return _folder(folder, cache)


def default_photo_set(cache: Path, reporter: Reporter, origins: Origins = ORIGINS) -> PhotoSet:
    """The flowers where they can be downloaded, else the stamps. Raises Unreachable, with both reasons, when neither
    can be had."""
    try:
        return _flowers(cache, reporter, origins)
    except Unreachable as error:
        no_flowers = error
    reporter.note(f"No flowers photos: {no_flowers.what} ({no_flowers.where}). Using the stamps")
    try:
        return _stamps(cache, reporter, origins)
    except (NotFound, Unreachable) as no_stamps:
        raise Unreachable(
            "no demo photos: neither flowers nor stamps",
            f"{_reason(no_flowers)}; {_reason(no_stamps)}",
            "Use a folder of class folders of your own: --photos FOLDER",
        ) from no_stamps


def _flowers(cache: Path, reporter: Reporter, origins: Origins) -> PhotoSet:
    photos = flower_photos(cache, reporter, origins.flowers, origins.limits)
    view = held_out_view(photos, cache)
    return PhotoSet(
        folder=view / "photos",
        unseen=_only_file(view / "unseen"),
        name="flowers",
        source=origins.flowers.url,
        licence=f"CC BY 2.0, the photographers are named in {photos / 'LICENSE.txt'}",
    )


def _stamps(cache: Path, reporter: Reporter, origins: Origins) -> PhotoSet:
    made = stamp_photos(stamps_folder(cache, reporter, origins.root), cache, reporter)
    return PhotoSet(
        folder=made / "photos",
        unseen=_only_file(made / "unseen"),
        name="stamps",
        source=f"composed here from Debian's package {PACKAGE} and textures of scikit-image",
        licence="GPL-2 (the cut-out photos), CC0 (the textures)",
    )


def _folder(folder: Path, cache: Path) -> PhotoSet:
    view = held_out_view(folder, cache)
    return PhotoSet(
        folder=view / "photos",
        unseen=_only_file(view / "unseen"),
        name=_short_name(folder.resolve().name),
        source=str(folder.resolve()),
        licence="that of the folder's owner",
    )


def held_out_view(folder: Path, cache: Path) -> Path:
    """A folder with `photos`, symbolic links to all images of `folder` but one, and `unseen`, a copy of that one.

    The given folder is only read. Copies of the unseen photo, which are equal byte for byte, are left out too.
    """
    files = list_source(str(folder)).files
    unseen = choose_unseen(files)
    data = Path(unseen.uri).read_bytes()
    shown = [file for file in files if not _holds(file, data)]

    def make(draft: Path) -> None:
        for file in shown:
            link = draft / "photos" / file.path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(file.uri).resolve())
        (draft / "unseen").mkdir()
        shutil.copyfile(unseen.uri, draft / "unseen" / Path(unseen.path).name)

    listing = [f"{file.path} {file.size_bytes}" for file in shown]
    return made_once(cache / f"view-{_hash(str(folder.resolve()), unseen.path, *listing)[:12]}", make)


def choose_unseen(files: Sequence[SourceFile]) -> SourceFile:
    """An image of the largest class, chosen by a hash of its path, a JPEG if there is one. Raises InputRefused when
    none of that class can be decoded."""
    counts = Counter(file.label for file in files)
    largest = max(sorted(counts), key=lambda label: counts[label])
    candidates = [file for file in files if file.label == largest]
    for file in sorted(candidates, key=lambda file: (not _is_jpeg(file), _hash(file.path))):
        try:
            decode(Path(file.uri).read_bytes(), short_side=None)
        except (BadImage, OSError):
            continue
        return file
    raise InputRefused(
        "no image of the largest class can be decoded", largest, "Try: tljobs prepare FOLDER --name NAME"
    )


def _is_jpeg(file: SourceFile) -> bool:
    return Path(file.path).suffix.lower() in JPEG_SUFFIXES


def _holds(file: SourceFile, data: bytes) -> bool:
    try:
        return file.size_bytes == len(data) and Path(file.uri).read_bytes() == data
    except OSError:
        return False  # prepare will reject it


def _short_name(folder_name: str) -> str:
    """Only what ids may hold; `photos` where nothing is left."""
    return re.sub(r"[^a-z0-9]+", "-", folder_name.lower()).strip("-")[:MAX_NAME] or "photos"


def _only_file(folder: Path) -> Path:
    return next(folder.iterdir())


def _reason(error: TljobsError) -> str:
    return f"{error.what} ({error.where})" if error.where else error.what


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
