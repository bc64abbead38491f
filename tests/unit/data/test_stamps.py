"""Composition on small cut-outs made by code, in the folders of the real package; a real .deb where dpkg-deb is."""

import dataclasses
import hashlib
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tljobs.data.stamps import (
    CLASSES,
    Composition,
    Cutout,
    assign_splits,
    compose,
    list_cutouts,
    load_textures,
    plan_photos,
    stamp_photos,
)
from tljobs.data.stamps_package import STAMPS, stamps_folder, unpack_package
from tljobs.errors import InputRefused, NotFound, Unreachable
from tljobs.progress import Silent

SMALL = Composition(per_object=2, size_px=48)
OBJECTS = ("apple", "bear", "cup", "dog_red", "dog_blue", "egg", "fox", "goat-1", "goat-2", "hats", "hat")


def draw_cutout(path: Path, colour: tuple[int, int, int], side_px: int = 40) -> None:
    image = Image.new("RGBA", (side_px, side_px + 10), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((5, 5, side_px - 5, side_px - 8), fill=(*colour, 255))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture(scope="module")
def stamps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stamps")
    for row, label in enumerate(CLASSES):
        for number, name in enumerate(OBJECTS):
            draw_cutout(root / label / "kind" / f"{name}.png", (20 * number, 50 * row, 255 - 20 * number))
        draw_cutout(root / label / "cartoon" / "drawing.png", (1, 2, 3))
    draw_cutout(root / "animals" / "kind" / "zebra.png", (9, 9, 9))
    (root / "animals" / "kind" / "zebra.txt").write_text("a zebra")
    return root


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_cutouts_are_listed_without_drawings_and_other_files(stamps: Path) -> None:
    names = [cutout.name for cutout in list_cutouts(stamps)]
    assert len(names) == len(CLASSES) * len(OBJECTS) + 1
    assert "animals/kind/zebra" in names
    assert not any("drawing" in name for name in names)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("frog-1", "frog"),
        ("frog", "frog"),
        ("heron_greatblue_flying", "heron"),
        ("garlics", "garlic"),
        ("Strawberry2", "strawberry"),
        ("pig_golden2", "pig"),
        ("7spoke256", "7spoke256"),
    ],
)
def test_the_object_is_the_first_word_of_the_name(name: str, expected: str) -> None:
    assert Cutout(Path(f"/s/food/{name}.png"), f"food/{name}", "food").object == expected


def test_no_object_is_in_two_splits(stamps: Path) -> None:
    splits_of: dict[tuple[str, str], set[str]] = {}
    for photo in plan_photos(list_cutouts(stamps), SMALL):
        splits_of.setdefault((photo.cutout.label, photo.cutout.object), set()).add(photo.place.split("/")[1])
    assert all(len(splits) == 1 for splits in splits_of.values())


def test_the_unseen_object_is_in_no_split_of_any_class(stamps: Path) -> None:
    *shown, unseen = plan_photos(list_cutouts(stamps), SMALL)
    assert unseen.place == "unseen/animals.jpg"
    assert unseen.cutout.object not in {photo.cutout.object for photo in shown}


def test_another_seed_is_another_split(stamps: Path) -> None:
    cutouts = list_cutouts(stamps)
    plans = [plan_photos(cutouts, dataclasses.replace(SMALL, seed=seed)) for seed in range(4)]
    assert len({frozenset(photo.place for photo in plan) for plan in plans}) > 1


def cutouts_of(label: str, *names: str) -> list[Cutout]:
    return [Cutout(Path(f"/s/{label}/{name}.png"), f"{label}/{name}", label) for name in names]


def test_shares_of_the_splits_are_kept_where_objects_are_small() -> None:
    cutouts = cutouts_of("food", *(f"fruit/object{chr(97 + number)}" for number in range(20)))
    assert Counter(assign_splits(cutouts, 0).values()) == {"train": 14, "test": 4, "val": 2}


def test_an_object_with_too_many_cutouts_for_test_goes_to_train() -> None:
    flowers = [f"flowers/flower_{number}" for number in range(10)]
    cutouts = cutouts_of("plants", *flowers, *(f"flowers/object{chr(97 + number)}" for number in range(16)))
    assert assign_splits(cutouts, 0)["flower"] == "train"


def test_every_kind_is_in_train() -> None:
    names = [f"{kind}/{kind}{chr(97 + number)}" for kind in ("fish", "birds", "toys") for number in range(5)]
    for seed in range(5):
        splits = assign_splits(cutouts_of("animals", *names, "worms/worm", "worms/worm_red"), seed)
        trained = {name for name, split in splits.items() if split == "train"}
        assert all(any(name.startswith(kind) for name in trained) for kind in ("fish", "bird", "toy", "worm"))


def test_a_class_of_two_objects_is_refused() -> None:
    with pytest.raises(InputRefused, match=r"too few objects.*vehicles"):
        assign_splits(cutouts_of("vehicles", "road/car", "road/bus"), 0)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="no cut-out"):
        stamp_photos(tmp_path, tmp_path / "cache", Silent())


def test_photos_are_composed_for_every_cutout_and_split(stamps: Path, tmp_path: Path) -> None:
    folder = stamp_photos(stamps, tmp_path, Silent(), SMALL)
    made = contents(folder)
    assert set(made) == {photo.place for photo in plan_photos(list_cutouts(stamps), SMALL)}
    assert {path.name for path in (folder / "photos").iterdir()} == {"train", "val", "test"}
    assert {path.name for path in (folder / "photos" / "train").iterdir()} == set(CLASSES)
    assert len(set(made.values())) == len(made)
    for place in made:
        with Image.open(folder / place) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (48, 48))


def test_photos_are_the_same_bytes_again_and_with_one_processor(
    stamps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = contents(stamp_photos(stamps, tmp_path / "a", Silent(), SMALL))
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert contents(stamp_photos(stamps, tmp_path / "b", Silent(), SMALL)) == first


def test_a_second_call_reads_the_cache_and_a_changed_cutout_does_not(stamps: Path, tmp_path: Path) -> None:
    own = shutil.copytree(stamps, tmp_path / "own")
    first = stamp_photos(own, tmp_path / "cache", Silent(), SMALL)
    made_ns = {path: path.stat().st_mtime_ns for path in first.rglob("*.jpg")}
    assert stamp_photos(own, tmp_path / "cache", Silent(), SMALL) == first
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*.jpg")} == made_ns
    draw_cutout(own / "food" / "kind" / "apple.png", (200, 200, 1))
    assert stamp_photos(own, tmp_path / "cache", Silent(), SMALL) != first


def test_a_composed_photo_shows_the_object_and_the_backdrop() -> None:
    cutout = Image.new("RGBA", (30, 30), (250, 0, 0, 255))
    pixels = np.asarray(compose(cutout, load_textures(), 64, np.random.default_rng(3))).astype(int)
    red = (pixels[..., 0] > 230) & (pixels[..., 1] < 20)
    assert 0.2 < red.mean() < 0.95
    assert len(np.unique(pixels[~red], axis=0)) > 20


def test_a_cutout_larger_than_the_photo_fits() -> None:
    cutout = Image.new("RGBA", (900, 30), (250, 0, 0, 255))
    assert compose(cutout, load_textures(), 64, np.random.default_rng(0)).size == (64, 64)


def test_installed_stamps_are_used_where_they_are(tmp_path: Path) -> None:
    (tmp_path / STAMPS).mkdir(parents=True)
    assert stamps_folder(tmp_path / "cache", Silent(), root=tmp_path) == tmp_path / STAMPS
    assert not (tmp_path / "cache").exists()


def test_without_package_and_tools_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotFound, match="apt-get install tuxpaint-stamps-default"):
        stamps_folder(tmp_path / "cache", Silent(), root=tmp_path)


def test_a_failing_download_gives_apts_own_words_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("apt-get", "dpkg-deb"):
        (tools / name).write_text("#!/bin/sh\necho 'W: odd' >&2\necho 'E: Unable to locate package' >&2\nexit 100\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/bin:/usr/bin")
    with pytest.raises(Unreachable, match=r"apt-get download.*E: Unable to locate package"):
        stamps_folder(tmp_path / "cache", Silent(), root=tmp_path)
    assert list((tmp_path / "cache").iterdir()) == []


needs_dpkg = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is Debian's")


def build_package(folder: Path, files: dict[str, bytes]) -> Path:
    tree = folder / "tree"
    for name, data in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: tuxpaint-stamps-default\nVersion: 1\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: stamps\n"
    )
    package = folder / "tuxpaint-stamps-default_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", str(tree), str(package)], check=True, capture_output=True)
    return package


@needs_dpkg
def test_a_package_is_unpacked_to_its_pictures_and_copyright(tmp_path: Path) -> None:
    picture = b"\x89PNG picture"
    files = {
        f"{STAMPS}/food/fruit/apple.png": picture,
        f"{STAMPS}/food/fruit/apple.ogg": b"sound",
        "usr/share/doc/tuxpaint-stamps-default/copyright": b"License: GPL-2",
    }
    package = build_package(tmp_path, files)
    target = tmp_path / "target"
    target.mkdir()
    unpack_package(package, target)
    found = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert found == {name: data for name, data in files.items() if not name.endswith(".ogg")}
    assert not package.exists()


@needs_dpkg
def test_a_damaged_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(b"no package")
    with pytest.raises(Unreachable, match="dpkg-deb --extract"):
        unpack_package(tmp_path / "x.deb", tmp_path)


@needs_dpkg
def test_a_package_without_stamps_is_refused(tmp_path: Path) -> None:
    package = build_package(tmp_path, {"usr/share/other/file": b"1"})
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(NotFound, match="no stamps"):
        unpack_package(package, target)
