"""A folder with planted faults is prepared, and `tljobs audit` finds and names each of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from images import bomb, encoded, photo
from PIL import Image, ImageOps

from tljobs.data.shards import PROBE_COLUMNS
from tljobs.runs import dataset_index, open_dataset
from tljobs.store import LocalStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# disc: the usual; Disc: another spelling, all grey; framed: all with bars; many: ten times as large.
PER_CLASS = {"disc": 11, "Disc": 11, "framed": 11, "many": 121}
HELD_OUT = 3
PREPARE = ("prepare", "photos", "--name", "faulty", "--image-size", "48", "--max-rejected", "0.1")


def looks(label: str, image: Image.Image) -> Image.Image:
    if label == "Disc":
        return image.convert("L")
    return ImageOps.expand(image.crop((0, 16, 96, 80)), (0, 16)) if label == "framed" else image


def write_sound_photos(root: Path) -> None:
    number = 1000
    for label, count in PER_CLASS.items():
        for split, images in (("train", count), ("val", HELD_OUT), ("test", HELD_OUT)):
            (root / split / label).mkdir(parents=True)
            for place in range(images):
                number += 1
                (root / split / label / f"{place:03}.jpg").write_bytes(encoded(looks(label, photo(number)), quality=92))


def plant_faults(root: Path) -> None:
    disc, many = root / "train/disc", root / "train/many"
    whole = encoded(photo(900), "PNG")
    (disc / "corrupt.png").write_bytes(whole[:2000] + b"\x00\x00\x00" + whole[2003:])
    (disc / "text.jpg").write_text("<html>not found</html>")
    (disc / "empty.jpg").write_bytes(b"")
    (disc / "truncated.jpg").write_bytes(encoded(photo(901))[:-500])
    (disc / "bomb.jpg").write_bytes(bomb())
    (disc / "copy.jpg").write_bytes((disc / "000.jpg").read_bytes())
    for folder in (disc, many):
        (folder / "two-labels.jpg").write_bytes(encoded(photo(902)))
    with Image.open(many / "007.jpg") as image:
        (many / "smaller.jpg").write_bytes(encoded(image.resize((64, 64), Image.Resampling.LANCZOS), quality=80))
    with Image.open(many / "005.jpg") as image:
        (root / "val/many/near.jpg").write_bytes(encoded(image, quality=60))
    (root / "test/many/same.jpg").write_bytes((many / "006.jpg").read_bytes())
    (many / "blank.jpg").write_bytes(encoded(Image.new("RGB", (96, 96), (250, 250, 245))))
    (many / "tiny.jpg").write_bytes(encoded(photo(903, 32)))
    exif = Image.Exif()
    exif[0x0112] = 6
    (many / "rotated.jpg").write_bytes(encoded(photo(904), exif=exif.tobytes()))
    (many / "print.jpg").write_bytes(encoded(photo(905).convert("CMYK")))
    (many / "really-a-png.jpg").write_bytes(encoded(photo(906), "PNG"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_sound_photos(tmp_path / "photos")
    return tmp_path


# Code -> severity, count, and a file that must be among the examples.
EXPECTED = {
    "rejected-corrupt": ("warns", 1, "train/disc/corrupt.png"),
    "rejected-not-an-image": ("warns", 1, "train/disc/text.jpg"),
    "rejected-empty": ("warns", 1, "train/disc/empty.jpg"),
    "rejected-truncated": ("warns", 1, "train/disc/truncated.jpg"),
    "rejected-too-large": ("warns", 1, "train/disc/bomb.jpg"),
    "duplicates": ("info", 2, "train/disc/copy.jpg"),
    "label-conflicts": ("warns", 2, "train/many/two-labels.jpg"),
    "near-duplicates": ("info", 2, "train/many/smaller.jpg"),
    "near-duplicates-across-splits": ("warns", 1, "val/many/near.jpg"),
    "duplicates-across-splits": ("warns", 2, "test/many/same.jpg"),
    "imbalance": ("warns", 11, None),
    "similar-class-names": ("warns", 2, None),
    "blank": ("warns", 1, "train/many/blank.jpg"),
    "upscaled": ("warns", 1, "train/many/tiny.jpg"),
    "borders": ("info", 17, "train/framed/000.jpg"),
    "borders-marks-class": ("warns", 17, "train/framed/000.jpg"),
    "grey": ("info", 17, "train/Disc/000.jpg"),
    "grey-marks-class": ("warns", 17, "train/Disc/000.jpg"),
    "rotated": ("info", 1, "train/many/rotated.jpg"),
    "cmyk": ("info", 1, "train/many/print.jpg"),
    "wrong-extension": ("info", 1, "train/many/really-a-png.jpg"),
}


def test_every_planted_fault_is_found_and_named(folder: Path, tljobs: Callable[..., Any]) -> None:
    plant_faults(folder / "photos")
    done = tljobs(*PREPARE, folder=folder)
    assert done.code == 0, done.err
    assert "  imbalance " in done.err
    report = json.loads(tljobs("audit", "faulty", "--json", folder=folder).out)
    told = {each["code"]: each for each in report["findings"]}
    assert set(told) == set(EXPECTED)
    for code, (severity, count, path) in EXPECTED.items():
        assert (told[code]["severity"], told[code]["count"]) == (severity, count), told[code]
        shown = [each["uri"] for each in told[code]["examples"]]
        assert path is None or any(uri.endswith(f"photos/{path}") for uri in shown), shown
    files = sum(1 for path in (folder / "photos").rglob("*") if path.is_file())
    assert report["files"] == files == report["images"] + report["duplicates"] + sum(report["rejected"].values())
    text = tljobs("audit", "faulty", folder=folder).out
    assert all(f"{each['code']}: {each['text']}" in text for each in told.values())
    index = dataset_index(store := LocalStore(folder / "tljobs-store"), open_dataset(store, "faulty"))
    assert all(index[name].null_count == 0 for name, _ in PROBE_COLUMNS)
    assert index.filter(index["blank"])["uri"].to_pylist() == [str(folder / "photos/train/many/blank.jpg")]


def test_leakage_between_given_splits_is_refused_until_it_is_allowed(folder: Path, tljobs: Callable[..., Any]) -> None:
    for number in range(5):
        with Image.open(folder / f"photos/train/many/{number:03}.jpg") as image:
            (folder / f"photos/val/many/near-{number}.jpg").write_bytes(encoded(image, quality=60))
    done = tljobs(*PREPARE, folder=folder)
    assert done.code == 3
    assert "near duplicate in train" in done.err
    assert "--allow leakage" in done.err
    assert tljobs(*PREPARE, "--allow", "leakage", folder=folder).code == 0


def test_a_class_without_validation_images_is_refused(folder: Path, tljobs: Callable[..., Any]) -> None:
    for path in (folder / "photos/val/framed").iterdir():
        path.unlink()
    done = tljobs(*PREPARE, folder=folder)
    assert done.code == 3
    assert "1 of 4 classes without val images" in done.err


def test_a_class_with_one_image_is_refused(folder: Path, tljobs: Callable[..., Any]) -> None:
    alone = folder / "all"
    for label, image in (("lonely", 1), *(("disc", number) for number in range(2, 40))):
        (alone / label).mkdir(parents=True, exist_ok=True)
        (alone / label / f"{image}.jpg").write_bytes(encoded(photo(image)))
    done = tljobs("prepare", "all", "--name", "lonely", "--image-size", "48", folder=folder)
    assert done.code == 3
    assert "lonely: " in done.err


def test_near_duplicates_stay_in_one_split_of_our_own(tmp_path: Path, tljobs: Callable[..., Any]) -> None:
    for label, first in (("a", 0), ("b", 100)):
        (tmp_path / "bursts" / label).mkdir(parents=True)
        for scene in range(first, first + 30):
            for shot, quality in enumerate((95, 80, 65)):
                path = tmp_path / "bursts" / label / f"{scene:03}-{shot}.jpg"
                path.write_bytes(encoded(photo(scene), quality=quality))
    command = ("prepare", "bursts", "--image-size", "48", "--split", "60/20/20")
    assert tljobs(*command, "--name", "together", folder=tmp_path).code == 0
    assert tljobs(*command, "--name", "apart", "--near-duplicates", "off", folder=tmp_path).code == 0
    store = LocalStore(tmp_path / "tljobs-store")
    divided = {}
    for name in ("together", "apart"):
        splits: dict[str, set[str]] = {}
        for row in dataset_index(store, open_dataset(store, name)).select(["uri", "split"]).to_pylist():
            splits.setdefault(Path(row["uri"]).name[:3], set()).add(row["split"])
        divided[name] = sum(len(each) > 1 for each in splits.values())
    assert divided["together"] == 0
    assert divided["apart"] > 20


def test_an_audit_of_nothing_is_code_4(tmp_path: Path, tljobs: Callable[..., Any]) -> None:
    done = tljobs("audit", "nothing", folder=tmp_path)
    assert done.code == 4
    assert "no such dataset" in done.err
