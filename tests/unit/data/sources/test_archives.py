"""Archives: what is in them comes out byte for byte, and anything that does not belong there refuses the whole."""

from __future__ import annotations

import io
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tfrecords import write_tfrecord

from tljobs.data.sources import Listing, list_source, read_file
from tljobs.data.sources.archives import Limits, members_of, safe_path
from tljobs.errors import InputRefused, UsageError
from tljobs.store import LocalStore

FILES = {"a/1.jpg": b"one", "a/2.jpg": b"two two", "b/ü é.jpg": b"three", "b/empty.jpg": b"", "b/.hidden": b"x"}
SUFFIXES = ["tar", "tar.gz", "tgz", "tar.bz2", "tar.xz", "tar.zst", "zip"]


def write_archive(path: Path, files: Mapping[str, bytes] = FILES) -> Path:
    """A tar or zip, packed as its name says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    plain = path.with_name("plain.tar")
    with tarfile.open(plain, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    path.write_bytes(packed(plain.read_bytes(), path.name))
    return path


def packed(data: bytes, name: str) -> bytes:
    import bz2
    import gzip
    import lzma

    import pyarrow as pa

    if name.endswith("zst"):
        compressed: bytes = pa.Codec("zstd").compress(data, asbytes=True)
        return compressed
    packers = {"gz": gzip.compress, "tgz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
    return packers.get(name.rpartition(".")[2], bytes)(data)


def listed(path: Path) -> Listing:
    return list_source(str(path), store=LocalStore(path.parent / "store"))


def contents(path: Path, limits: Limits = Limits()) -> dict[str, bytes]:  # noqa: B008
    return dict(members_of(path, str(path), limits))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_class_folders_in_an_archive_are_read_as_if_they_lay_on_disk(tmp_path: Path, suffix: str) -> None:
    path = write_archive(tmp_path / f"photos.{suffix}")
    listing = listed(path)
    assert {file.path: read_file(file.address) for file in listing.files} == {
        name: data for name, data in FILES.items() if "hidden" not in name
    }
    assert listing.classes == ("a", "b")
    assert listing.ignored == ("b/.hidden",)
    assert listing.files[0].uri == f"{path}!/a/1.jpg"
    assert [file.size_bytes for file in listing.files] == [3, 7, 0, 5]


def test_a_tar_that_gnu_tar_made_and_a_folder_around_everything(tmp_path: Path) -> None:
    long_name = "x" * 120 + "/" + "y" * 120 + ".jpg"
    for name, data in {**FILES, f"b/{long_name}": b"long"}.items():
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(data)
    subprocess.run(["tar", "czf", "photos.tar.gz", "./photos"], cwd=tmp_path, check=True, timeout=20)
    listing = listed(tmp_path / "photos.tar.gz")
    assert listing.classes == ("a", "b")
    assert f"b/{long_name}" in {file.path for file in listing.files}
    assert listing.files[0].uri == f"{tmp_path}/photos.tar.gz!/photos/a/1.jpg"


def test_an_archive_is_unpacked_once(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "photos.zip")
    first = listed(path)
    packs = sorted((tmp_path / "store").rglob("*"))
    times = [each.stat().st_mtime_ns for each in packs]
    assert listed(path) == first
    assert [each.stat().st_mtime_ns for each in packs] == times
    assert len([each for each in packs if each.is_file()]) == 3


@pytest.mark.parametrize("lost", ["staged.json", "pack-000000.bin", "pack-000000.parquet"])
def test_half_an_unpacked_archive_is_never_used(tmp_path: Path, lost: str) -> None:
    path = write_archive(tmp_path / "photos.zip")
    first = listed(path)
    next((tmp_path / "store").rglob(lost)).unlink()
    assert listed(path) == first
    assert all(len(read_file(file.address)) == file.size_bytes for file in first.files)


def test_a_table_in_an_archive_labels_its_members(tmp_path: Path) -> None:
    table = b"file,label\nimages\\1.JPG,007\nimages/2.jpg,7\n./images/3.jpg,7\nimages/gone.jpg,007\n"
    files = {"set/labels.csv": table, **{f"set/images/{number}.jpg": b"%d" % number for number in (1, 2, 3, 4)}}
    listing = listed(write_archive(tmp_path / "set.tar", files))
    assert {file.path: file.labels for file in listing.files} == {
        "images/1.jpg": ("007",),
        "images/2.jpg": ("7",),
        "images/3.jpg": ("7",),
        "images/gone.jpg": ("007",),
    }
    assert read_file(listing.files[2].address) == b"3"
    assert listing.ignored == ("images/4.jpg",)
    with pytest.raises(OSError):
        read_file(listing.files[3].address)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../etc/passwd", "file:///etc/passwd", "s3://bucket/x", "C:\\x.jpg"]
)
def test_a_table_in_an_archive_reaches_nothing_outside_of_it(tmp_path: Path, path: str) -> None:
    files = {"metadata.csv": f"file_name,label\n1.jpg,a\n{path},b\n".encode(), "1.jpg": b"1"}
    with pytest.raises(InputRefused, match=r"outside of it.*row 3 of"):
        listed(write_archive(tmp_path / "set.zip", files))


def test_tfrecord_files_in_an_archive(tmp_path: Path) -> None:
    examples = [{"image": b"image %d" % number, "label": number % 2} for number in range(4)]
    data = write_tfrecord(tmp_path / "x", examples).read_bytes()
    listing = listed(write_archive(tmp_path / "set.tgz", {"d/train.tfrecord": data, "d/readme.md": b""}))
    assert [read_file(file.address) for file in listing.files] == [b"image %d" % number for number in range(4)]


# ----------------------------------------------------------------------------------------------------- refusals


@given(st.text("ab./\\:\0é\udcff", max_size=12))
def test_a_safe_path_is_relative_and_stays_below_or_is_refused(name: str) -> None:
    try:
        path = safe_path(name)
    except ValueError:
        return
    assert path.encode()
    parts = path.split("/")
    assert not {"", ".", ".."} & set(parts)
    assert not name.startswith(("/", "\\"))


@pytest.mark.parametrize(
    "name", ["/a/1.jpg", "../1.jpg", "a/../../1.jpg", "a\\..\\..\\1.jpg", "C:\\1.jpg", "\\\\host\\x"]
)
@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_a_member_that_would_leave_the_archive_refuses_it_by_name(tmp_path: Path, name: str, suffix: str) -> None:
    path = write_archive(tmp_path / f"x.{suffix}", {"a/1.jpg": b"1", name: b"2"})
    with pytest.raises(InputRefused, match=r"refused archive: a.* path") as caught:
        listed(path)
    assert caught.value.where == f"{path}!/{name}"
    assert not list((tmp_path / "store").rglob("staged.json"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_links_and_devices_in_a_tar_refuse_it(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        member = tarfile.TarInfo("a/odd.jpg")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(InputRefused, match=r"a link, device or sparse file: .*x\.tar!/a/odd\.jpg"):
        contents(tmp_path / "x.tar")


def test_links_in_a_zip_refuse_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        member = zipfile.ZipInfo("a/link.jpg")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(InputRefused, match=r"a link or device: .*x\.zip!/a/link\.jpg"):
        contents(tmp_path / "x.zip")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(members=2), "more than 2 members"),
        (Limits(member_bytes=900), "a member of 1000 bytes, more than 900"),
        (Limits(total_bytes=1500), "more than 1500 bytes in all"),
    ],
)
def test_too_much_is_refused(tmp_path: Path, suffix: str, limits: Limits, message: str) -> None:
    path = write_archive(tmp_path / f"x.{suffix}", {f"a/{number}.jpg": bytes(1000) for number in range(3)})
    assert len(contents(path)) == 3
    with pytest.raises(InputRefused, match=message):
        contents(path, limits)


@pytest.mark.parametrize("suffix", ["tar.gz", "tar.bz2", "tar.xz", "tar.zst", "zip"])
def test_a_bomb_is_refused_by_its_ratio(tmp_path: Path, suffix: str) -> None:
    path = write_archive(tmp_path / f"x.{suffix}", {"a/1.jpg": bytes(10**6), "a/2.jpg": bytes(10**6)})
    with pytest.raises(InputRefused, match="more than 100 times its size"):
        contents(path, Limits(ratio_from_bytes=10**5))


def test_a_header_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    """tarfile reads the header of a long name or of attributes whole, however long it says that it is."""
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 2**32
    (tmp_path / "x.tar").write_bytes(header.tobuf() + bytes(4 * 2**20))
    with pytest.raises(InputRefused, match="headers of more than"):
        contents(tmp_path / "x.tar")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_truncated_archive_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write_archive(tmp_path / f"x.{suffix}", {f"a/{number}.jpg": b"%d" % number * 700 for number in range(9)})
    whole = path.read_bytes()
    cuts = [len(whole) // 3, len(whole) // 2]
    cuts += (
        [512 * 6] if suffix == "tar" else [len(whole) - len(whole) // 5]
    )  # between two members; a tar ends with zeros
    for cut in cuts:
        path.write_bytes(whole[:cut])
        with pytest.raises(InputRefused, match="damaged archive"):
            contents(path)


def test_a_damaged_header_in_the_middle_does_not_end_the_archive_silently(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "x.tar", {f"a/{number}.jpg": bytes(10) for number in range(9)})
    whole = bytearray(path.read_bytes())
    whole[1024 * 4 + 150] ^= 255
    path.write_bytes(whole)
    with pytest.raises(InputRefused, match=r"damaged archive: .* after 'a/3\.jpg'"):
        contents(path)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        path = tmp_path / f"x.{suffix}"
        path.write_bytes(b"this is no archive at all" * 100)
        with pytest.raises(InputRefused, match="damaged archive"):
            listed(path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "x.zip", {"a/1.jpg": b"1"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(InputRefused, match="encrypted"):
        contents(path)


def test_without_a_store_an_archive_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a store"):
        list_source(str(write_archive(tmp_path / "photos.zip")))
