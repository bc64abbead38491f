"""What goes wrong before and during the work: each with its one line and its exit code, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from images import make_class_folders
from s3_server import S3Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CLASSES = ["checks", "disc", "stripes"]


def tljobs(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tljobs", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=folder,
        env={**os.environ, **environment},
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done


def message(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that tells what is wrong."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("tljobs: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_class_folders(tmp_path / "photos", CLASSES, per_class=30, size_px=72)
    return tmp_path


def test_a_missing_folder(folder: Path) -> None:
    done = tljobs("prepare", "fotos", "--name", "x", folder=folder)
    assert done.returncode == 4
    assert "fotos" in message(done)


def test_an_empty_folder(folder: Path) -> None:
    (folder / "empty").mkdir()
    done = tljobs("prepare", "empty", "--name", "x", folder=folder)
    assert done.returncode == 3
    assert "no images" in message(done)


def test_a_folder_with_one_class(folder: Path) -> None:
    make_class_folders(folder / "single", ["checks"], per_class=5)
    done = tljobs("prepare", "single", "--name", "x", folder=folder)
    assert done.returncode == 3
    assert "checks" in message(done)


def test_a_text_file_named_jpg_and_a_corrupt_jpeg_among_good_ones_are_counted_and_left_out(folder: Path) -> None:
    (folder / "photos/disc/notes.jpg").write_text("not an image")
    photo = folder / "photos/disc/0003.jpg"
    photo.write_bytes(photo.read_bytes()[:900])
    done = tljobs("prepare", "photos", "--name", "x", "--image-size", "48", folder=folder)
    assert done.returncode == 3
    assert "not_an_image" in message(done)
    assert "truncated" in message(done)
    assert not list((folder / "tljobs-store").rglob("manifest.json"))
    done = tljobs("prepare", "photos", "--name", "x", "--image-size", "48", "--max-rejected", "0.05", folder=folder)
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "tljobs-store").rglob("manifest.json"))) == 1


def test_an_unknown_backbone_says_what_was_meant(folder: Path) -> None:
    assert tljobs("prepare", "photos", "--name", "x", "--image-size", "48", folder=folder).returncode == 0
    done = tljobs("train", "x", "--backbone", "resnet5", folder=folder)
    assert done.returncode == 2
    assert "resnet50" in message(done)
    done = tljobs("train", "x", "--image-size", "224", folder=folder)
    assert done.returncode == 2
    assert "--image-size 224" in message(done)
    done = tljobs("train", "x", "--weights", "nowhere.keras", "--dry-run", folder=folder)
    assert done.returncode == 4
    assert "nowhere.keras" in message(done)


def test_an_unreachable_store(folder: Path) -> None:
    endpoint = ("--endpoint-url", "http://127.0.0.1:9")
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    done = tljobs("runs", "--store", "s3://bucket/x", *endpoint, folder=folder, **keys)
    assert done.returncode == 5
    assert "http://127.0.0.1:9" in message(done)


def test_a_wrong_secret_key_and_a_missing_bucket(folder: Path, s3_server: S3Server) -> None:
    uri = f"s3://{s3_server.new_bucket()}/x"
    done = tljobs("runs", "--store", uri, folder=folder, AWS_SECRET_ACCESS_KEY="wrong")
    assert done.returncode == 5
    assert "secret key" in message(done)
    done = tljobs("prepare", "photos", "--name", "x", "--store", "s3://no-such-bucket-here/x", folder=folder)
    assert done.returncode == 5
    assert "no such bucket" in message(done)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(mount)], check=True, timeout=20)
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True, timeout=20)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_no_space_left(folder: Path, tiny_disk: Path) -> None:
    done = tljobs("prepare", "photos", "--name", "x", "--store", str(tiny_disk / "store"), folder=folder)
    assert done.returncode == 5
    assert "no space left" in message(done)
    assert not list(tiny_disk.rglob("manifest.json"))
    done = tljobs("prepare", "photos", "--name", "x", "--image-size", "48", folder=folder)
    assert done.returncode == 0, "the same request works where there is room"
