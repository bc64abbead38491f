"""The flowers photos of TensorFlow's examples: five classes, 3,670 JPEGs, CC BY.

In: the archive's public address, size and hash. Out: its class folders in the cache. The archive is taken only if
every byte of it is the published one; a time limit stands on every wait.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import tarfile
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tljobs.data.cache import made_once
from tljobs.errors import InputRefused, Unreachable
from tljobs.progress import Reporter

T = TypeVar("T")

CHUNK_BYTES = 2**18
MAX_MEMBERS = 10_000
MAX_UNPACKED_BYTES = 2**30
OFFLINE_HINT = "Check the network, or use the photos of a folder"


@dataclass(frozen=True)
class Archive:
    """A .tgz file that is published at `url`; everything in it lies in the folder `root`."""

    url: str
    size_bytes: int
    sha256: str
    root: str


@dataclass(frozen=True)
class Limits:
    """How long to wait: for an answer at all, for the next byte, for the whole archive."""

    answer_s: float = 5
    stall_s: float = 20
    download_s: float = 900


LIMITS = Limits()

# Size and hash as the project tensorflow/datasets publishes them:
# tensorflow_datasets/datasets/tf_flowers/checksums.tsv
FLOWERS = Archive(
    url="https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz",
    size_bytes=228_813_984,
    sha256="4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c",
    root="flower_photos",
)


def flower_photos(cache: Path, reporter: Reporter, archive: Archive = FLOWERS, limits: Limits = LIMITS) -> Path:
    """Class folders of the flowers photos, downloaded at the first call and found in `cache` later.

    Raises Unreachable when nothing answers within seconds or the download fails, InputRefused when the bytes are not
    the published ones or the archive holds anything but plain files.
    """

    def make(draft: Path) -> None:
        check_reachable(archive, limits.answer_s)
        reporter.note(f"Downloading {archive.url} ({archive.size_bytes / 1e6:.0f} MB)")
        packed = draft / "archive.tgz"
        download(archive, packed, reporter, limits)
        unpack(packed, draft)
        packed.unlink()

    return made_once(cache / f"flowers-{archive.sha256[:12]}", make) / archive.root


def check_reachable(archive: Archive, answer_s: float) -> None:
    """Raises Unreachable unless the archive's server answers within `answer_s` with a file of the right size."""
    request = urllib.request.Request(archive.url, method="HEAD")

    def length() -> str | None:
        with urllib.request.urlopen(request, timeout=answer_s) as response:
            claimed: str | None = response.headers.get("Content-Length")
            return claimed

    try:
        answered = _within(answer_s, length)
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(archive, error) from error
    # The sign-in page of a guest network answers every address.
    if answered not in (None, str(archive.size_bytes)):
        raise Unreachable("something else answers in place of the photos", archive.url, OFFLINE_HINT)


def download(archive: Archive, target: Path, reporter: Reporter, limits: Limits) -> None:
    """Writes the archive to `target`. Never reads far beyond its size; see `flower_photos` for errors."""
    digest, done = hashlib.sha256(), 0
    with target.open("xb") as file:
        for chunk in _chunks(archive, limits):
            done += len(chunk)
            if done > archive.size_bytes:
                break
            digest.update(chunk)
            file.write(chunk)
            reporter.progress("download", done // 10**6, archive.size_bytes // 10**6, "MB")
    if done < archive.size_bytes:
        raise Unreachable("the download ended early", archive.url, "Run it again")
    if done > archive.size_bytes or digest.hexdigest() != archive.sha256:
        raise InputRefused("the downloaded file is not the published one", archive.url, "Nothing of it was used")


def _chunks(archive: Archive, limits: Limits) -> Iterator[bytes]:
    started_s = time.monotonic()
    try:
        with urllib.request.urlopen(archive.url, timeout=limits.stall_s) as response:
            # read1 returns what has arrived: `read` would wait for a full chunk, past the limit on the whole.
            while chunk := response.read1(CHUNK_BYTES):
                yield chunk
                if time.monotonic() - started_s > limits.download_s:
                    raise TimeoutError(f"not complete after {limits.download_s:g} s")
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(archive, error) from error


def unpack(packed: Path, folder: Path) -> None:
    """Unpacks a .tgz of plain files and folders. Raises InputRefused for links, devices, paths that lead out of
    `folder`, and archives of more than MAX_MEMBERS members or MAX_UNPACKED_BYTES."""
    members = total_bytes = 0
    try:
        with tarfile.open(packed, "r:gz") as archive:
            for member in archive:
                members, total_bytes = members + 1, total_bytes + member.size
                if members > MAX_MEMBERS or total_bytes > MAX_UNPACKED_BYTES:
                    raise _refused("it is too large", member.name)
                if not (member.isreg() or member.isdir()):
                    raise _refused("it holds a link or a device", member.name)
                archive.extract(member, folder, filter="data")
    except tarfile.FilterError as error:
        raise _refused("a path leads out of the folder", error.tarinfo.name) from error
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise _refused("it is damaged", packed.name) from error


def _refused(why: str, member: str) -> InputRefused:
    return InputRefused(f"the archive is refused, because {why}", member, "Nothing of it was used")


def _unreachable(archive: Archive, error: Exception) -> Unreachable:
    reason = getattr(error, "reason", None) or error
    return Unreachable("the photos cannot be downloaded", archive.url, f"{OFFLINE_HINT} ({reason})")


def _within(seconds: float, action: Callable[[], T]) -> T:
    """The result of `action`, or TimeoutError: the look-up of a host name has no time limit of its own."""
    result: list[T] = []
    failure: list[Exception] = []

    def run() -> None:
        try:
            result.append(action())
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not result:
        raise TimeoutError(f"no answer in {seconds:g} s")
    return result[0]
