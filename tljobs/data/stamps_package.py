"""Where the cut-out photos come from: Debian's package tuxpaint-stamps-default (GPL-2), installed or only unpacked.

Out: the folder of all stamps. Without root, `apt-get download` fetches the package and checks it against Debian's
signed lists, and `dpkg-deb` unpacks it; nothing is installed.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tljobs.data.cache import made_once
from tljobs.errors import NotFound, Unreachable
from tljobs.progress import Reporter

PACKAGE = "tuxpaint-stamps-default"
STAMPS = Path("usr/share/tuxpaint/stamps")
COPYRIGHT = Path("usr/share/doc", PACKAGE, "copyright")
DOWNLOAD_TIMEOUT_S = 600  # 161 MB
UNPACK_TIMEOUT_S = 180
INSTALL_HINT = f"On Debian or Ubuntu: `apt-get install {PACKAGE}`. Or use the photos of a folder"


def stamps_folder(cache: Path, reporter: Reporter, root: Path = Path("/")) -> Path:
    """The stamps installed below `root`, else those unpacked into `cache`.

    Raises NotFound where there is neither the package nor Debian's tools, Unreachable when the download fails.
    """
    installed = root / STAMPS
    if installed.is_dir():
        return installed
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise NotFound("the photos of stamps are not installed", str(installed), INSTALL_HINT)

    def make(draft: Path) -> None:
        reporter.note(f"Downloading Debian's package {PACKAGE} (161 MB)")
        unpack_package(_download(draft), draft)

    return made_once(cache / PACKAGE, make) / STAMPS


def unpack_package(package: Path, folder: Path) -> None:
    """Moves the stamps' pictures and the copyright file of a .deb to their places below `folder`; the rest (sounds
    in many languages) and the package itself are deleted. Raises Unreachable when dpkg-deb fails."""
    whole = folder / "whole"
    _run(["dpkg-deb", "--extract", str(package), str(whole)], folder, UNPACK_TIMEOUT_S)
    for path in [*sorted((whole / STAMPS).rglob("*.png")), whole / COPYRIGHT]:
        if path.is_file() and not path.is_symlink():
            target = folder / path.relative_to(whole)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    shutil.rmtree(whole)
    package.unlink()
    if not (folder / STAMPS).is_dir():
        raise NotFound("the package holds no stamps", package.name, INSTALL_HINT)


def _download(folder: Path) -> Path:
    _run(["apt-get", "download", PACKAGE], folder, DOWNLOAD_TIMEOUT_S)
    found = list(folder.glob(f"{PACKAGE}_*.deb"))
    if len(found) != 1:
        raise Unreachable("apt-get has downloaded no package", PACKAGE, INSTALL_HINT)
    return found[0]


def _run(command: list[str], folder: Path, timeout_s: float) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired as error:
        raise Unreachable(f"`{' '.join(command)}` did not end within {timeout_s:g} s", "", INSTALL_HINT) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith(("E:", "dpkg-deb: error"))]
        said = (lines or done.stderr.splitlines() or [f"exit code {done.returncode}"])[-1]
        raise Unreachable(f"`{' '.join(command)}` failed", said, INSTALL_HINT)
