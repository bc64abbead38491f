"""Photo sets on real folders; the flowers from a real HTTP server on this host, the stamps from cut-outs made here."""

import functools
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from images import jpeg_bytes, make_class_folders
from PIL import Image

from tljobs.data.flowers import Archive, Limits
from tljobs.data.photo_sets import Origins, default_photo_set, photo_set
from tljobs.data.sources import list_source
from tljobs.data.stamps import CLASSES
from tljobs.data.stamps_package import STAMPS
from tljobs.errors import InputRefused, NotFound, Unreachable
from tljobs.layout import checked_id
from tljobs.progress import Silent

pytestmark = pytest.mark.timeout(60)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


# ---------------------------------------------------------------------------------------------------- a folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    make_class_folders(tmp_path / "photos", ["cat", "dog"], 3, 32)
    for number in (98, 99):
        (tmp_path / "photos" / "dog" / f"{number}.jpg").write_bytes(jpeg_bytes(1, number, 32))
    return tmp_path / "photos"


def test_the_unseen_photo_is_of_the_largest_class_and_in_no_folder(photos: Path, tmp_path: Path) -> None:
    before = digests(photos)
    made = photo_set(str(photos), tmp_path / "cache", Silent())
    unseen = hashlib.sha256(made.unseen.read_bytes()).hexdigest()
    shown = digests(made.folder)
    assert unseen not in shown.values()
    assert set(before.items()) - set(shown.items()) == {(f"dog/{made.unseen.name}", unseen)}
    assert set(shown) < set(before)
    assert digests(photos) == before


def test_the_same_photo_is_held_out_again_and_wherever_the_folder_lies(photos: Path, tmp_path: Path) -> None:
    first = photo_set(str(photos), tmp_path / "cache", Silent())
    assert photo_set(str(photos), tmp_path / "cache", Silent()) == first
    moved = photos.rename(tmp_path / "moved")
    assert photo_set(str(moved), tmp_path / "cache", Silent()).unseen.name == first.unseen.name


def test_copies_of_the_unseen_photo_are_held_out_too(photos: Path, tmp_path: Path) -> None:
    unseen = photo_set(str(photos), tmp_path / "cache", Silent()).unseen
    (photos / "cat" / "copy.jpg").write_bytes(unseen.read_bytes())
    again = photo_set(str(photos), tmp_path / "cache", Silent())
    assert again.unseen.name == unseen.name
    assert "cat/copy.jpg" not in digests(again.folder)


def test_a_changed_folder_is_another_set(photos: Path, tmp_path: Path) -> None:
    photo_set(str(photos), tmp_path / "cache", Silent())
    (photos / "cat" / "new.jpg").write_bytes(jpeg_bytes(0, 50, 32))
    again = photo_set(str(photos), tmp_path / "cache", Silent())
    assert "cat/new.jpg" in digests(again.folder)


def test_given_splits_stay_and_prepare_sees_them(tmp_path: Path) -> None:
    for split, per_class in (("train", 4), ("test", 2)):
        make_class_folders(tmp_path / "photos" / split, ["cat", "dog"], per_class, 32, seed=per_class)
    made = photo_set(str(tmp_path / "photos"), tmp_path / "cache", Silent())
    listing = list_source(str(made.folder))
    assert len(listing.files) == 11
    assert {file.given_split for file in listing.files} == {"train", "test"}
    assert tuple(listing.classes) == ("cat", "dog")


def test_a_photo_that_cannot_be_decoded_is_not_the_unseen_one(photos: Path, tmp_path: Path) -> None:
    first = photo_set(str(photos), tmp_path / "cache", Silent()).unseen.name
    (photos / "dog" / first).write_bytes(b"<html>no photo</html>")
    second = photo_set(str(photos), tmp_path / "cache", Silent())
    assert second.unseen.name != first
    with Image.open(second.unseen) as image:
        assert image.format == "JPEG"


def test_a_class_without_any_good_photo_is_refused(photos: Path, tmp_path: Path) -> None:
    for path in (photos / "dog").iterdir():
        path.write_bytes(b"no photo")
    with pytest.raises(InputRefused, match=r"can be decoded.*dog"):
        photo_set(str(photos), tmp_path / "cache", Silent())


def test_a_folder_of_other_formats_gives_its_own_format(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(2):
            image = Image.open(io.BytesIO(jpeg_bytes(number, ord(label[0]), 32)))
            image.save(tmp_path / "photos" / label / f"{number}.png")
    assert photo_set(str(tmp_path / "photos"), tmp_path / "cache", Silent()).unseen.suffix == ".png"


@pytest.mark.parametrize(
    ("folder", "name"), [("My Photos (2)", "my-photos-2"), ("犬と猫", "photos"), ("a" * 90, "a" * 40)]
)
def test_the_name_of_a_folder_becomes_part_of_a_dataset_name(photos: Path, folder: str, name: str) -> None:
    made = photo_set(str(photos.rename(photos.parent / folder)), photos.parent / "cache", Silent())
    assert made.name == checked_id(name)


def test_an_unknown_name_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="Use flowers, stamps, or a folder"):
        photo_set("flower", tmp_path, Silent())


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputRefused):
        photo_set(str(tmp_path / "photos"), tmp_path / "cache", Silent())


# ----------------------------------------------------------------------------------- flowers, stamps, the default


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """A small archive like the flowers photos, behind a real server, in place of the published one."""
    make_class_folders(tmp_path / "tree" / "flower_photos", ["roses", "tulips"], 3, 32)
    (tmp_path / "tree" / "flower_photos" / "LICENSE.txt").write_text("CC BY 2.0: A. Photographer")
    (tmp_path / "www").mkdir()
    packed = tmp_path / "www" / "flower_photos.tgz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(tmp_path / "tree" / "flower_photos", "flower_photos")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    data = packed.read_bytes()
    url = f"http://127.0.0.1:{server.server_port}/{packed.name}"
    yield Archive(url, len(data), hashlib.sha256(data).hexdigest(), "flower_photos")
    server.shutdown()
    server.server_close()


@pytest.fixture
def stamps_root(tmp_path: Path) -> Path:
    """A root folder with installed stamps: six small pictures of each class, each an object of its own."""
    for label in CLASSES:
        folder = tmp_path / "root" / STAMPS / label
        folder.mkdir(parents=True)
        for number, name in enumerate(("ape", "bee", "cat", "dog", "emu", "fox")):
            image = Image.new("RGBA", (20, 20), (40 * number, 90, 200, 255))
            image.save(folder / f"{name}{label}.png")
    return tmp_path / "root"


NOWHERE = Archive("http://127.0.0.1:9/flower_photos.tgz", 1, "0" * 64, "flower_photos")


def test_flowers_are_class_folders_without_the_unseen_photo(published: Archive, tmp_path: Path) -> None:
    made = photo_set("flowers", tmp_path / "cache", Silent(), Origins(flowers=published))
    listing = list_source(str(made.folder))
    assert len(listing.files) == 5
    assert tuple(listing.classes) == ("roses", "tulips")
    assert hashlib.sha256(made.unseen.read_bytes()).hexdigest() not in digests(made.folder).values()
    assert made.source == published.url
    licence_file = Path(made.licence.split(" named in ")[1])
    assert "Photographer" in licence_file.read_text()


def test_stamps_are_split_folders_with_an_unseen_object(stamps_root: Path, tmp_path: Path) -> None:
    made = photo_set("stamps", tmp_path / "cache", Silent(), Origins(root=stamps_root))
    listing = list_source(str(made.folder))
    assert len(listing.files) == 4 * (6 * len(CLASSES) - 1)
    assert tuple(listing.classes) == CLASSES
    assert {file.given_split for file in listing.files} == {"train", "val", "test"}
    assert made.unseen.stem in CLASSES
    assert "GPL-2" in made.licence


def test_the_default_is_flowers_where_they_can_be_downloaded(published: Archive, tmp_path: Path) -> None:
    assert default_photo_set(tmp_path / "cache", Silent(), Origins(flowers=published)).name == "flowers"


def test_the_default_is_stamps_where_nothing_answers(stamps_root: Path, tmp_path: Path) -> None:
    origins = Origins(flowers=NOWHERE, limits=Limits(answer_s=2), root=stamps_root)
    assert default_photo_set(tmp_path / "cache", Silent(), origins).name == "stamps"


def test_without_both_the_error_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    origins = Origins(flowers=NOWHERE, limits=Limits(answer_s=2), root=tmp_path)
    with pytest.raises(Unreachable, match=r"neither flowers nor stamps.*downloaded.*not installed.*--photos FOLDER"):
        default_photo_set(tmp_path / "cache", Silent(), origins)


def test_false_flowers_are_not_replaced_by_stamps(published: Archive, stamps_root: Path, tmp_path: Path) -> None:
    false = Archive(published.url, published.size_bytes, "0" * 64, published.root)
    with pytest.raises(InputRefused, match="not the published one"):
        default_photo_set(tmp_path / "cache", Silent(), Origins(flowers=false, root=stamps_root))
