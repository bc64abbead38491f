"""Photos composed on the spot: real cut-out photos pasted on real textures and on gradients.

In: a folder of cut-outs (PNG with transparency), one folder per class, as tljobs.data.stamps_package finds it, and
scikit-image's photos of brick, grass and gravel. Out: `photos/{train,val,test}/CLASS/*.jpg` and `unseen/CLASS.jpg`.
All photos of an object, and of objects named alike, are in one split; the unseen one is of an object that is in none.
Every photo is a function of (seed, cut-out, number) alone.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tljobs.data.cache import made_once
from tljobs.errors import InputRefused, UsageError
from tljobs.progress import Reporter
from tljobs.records import SPLITS, Split

CLASSES = ("animals", "food", "household", "plants", "vehicles")
DRAWINGS = "cartoon"  # folders of this name hold no photos
COMPOSITION_VERSION = 2  # counts changes to the rules below, so that a cache of older rules is not used
SHARES: Mapping[Split, float] = {"test": 0.2, "val": 0.1}  # of the cut-outs of a class
MAX_TURN_DEGREES = 15
OBJECT_SHARES = (0.6, 0.95)  # longer side of the object, as a share of the photo's side
TEXTURE_SHARE = 3 / 5  # of the backgrounds; the others are gradients
TEXTURE_CROP_PX = 200
JPEG_QUALITY = 88

Texture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Composition:
    """How many photos of each cut-out, their side in pixels, and the seed of everything random."""

    per_object: int = 4
    size_px: int = 224
    seed: int = 0


COMPOSITION = Composition()


@dataclass(frozen=True)
class Cutout:
    """A cut-out photo. `name` is its path below the folder of all stamps, without the suffix."""

    path: Path
    name: str
    label: str

    @property
    def object(self) -> str:
        """The first word of the file's name: `frog-1` and `frog`, `heron_greatblue` and `heron_greatblue_flying`,
        `garlic` and `garlics` show one object each."""
        stem = self.path.stem.lower()
        word = re.match(r"[^\W\d_]+", stem)
        return word.group().removesuffix("s") if word else stem

    @property
    def kind(self) -> str:
        """The folder that it lies in, such as `animals/birds`."""
        return self.name.rpartition("/")[0]


@dataclass(frozen=True)
class Photo:
    """A photo to be composed: the `number`-th of `cutout`; `place` is its path below the result's folder."""

    cutout: Cutout
    number: int
    place: str


def stamp_photos(stamps: Path, cache: Path, reporter: Reporter, composition: Composition = COMPOSITION) -> Path:
    """The folder with `photos` and `unseen`, composed at the first call and found in `cache` later.

    Raises InputRefused when a class has too few objects to split, UsageError when scikit-image is not installed.
    """
    cutouts = list_cutouts(stamps)
    photos = plan_photos(cutouts, composition)
    return made_once(
        cache / f"stamps-{_digest(cutouts, composition)}",
        lambda draft: _write_photos(photos, draft, composition, reporter),
    )


def list_cutouts(stamps: Path) -> list[Cutout]:
    """The PNG files of all classes at any depth, sorted, without drawings."""
    return [
        Cutout(path, path.relative_to(stamps).with_suffix("").as_posix(), label)
        for label in CLASSES
        for path in sorted((stamps / label).rglob("*.png"))
        if DRAWINGS not in path.relative_to(stamps).parts
    ]


def plan_photos(cutouts: Sequence[Cutout], composition: Composition) -> list[Photo]:
    """All photos, and the unseen one last. Raises InputRefused when a class has too few objects."""
    unseen = choose_unseen(cutouts, composition.seed)
    shown = [cutout for cutout in cutouts if cutout.object != unseen.object]
    photos: list[Photo] = []
    for label in CLASSES:
        of_class = [cutout for cutout in shown if cutout.label == label]
        splits = assign_splits(of_class, composition.seed)
        for cutout in of_class:
            folder, name = f"photos/{splits[cutout.object]}/{label}", cutout.name.replace("/", "-")
            photos += [Photo(cutout, n, f"{folder}/{name}_{n}.jpg") for n in range(composition.per_object)]
    return [*photos, Photo(unseen, 0, f"unseen/{unseen.label}.jpg")]


def choose_unseen(cutouts: Sequence[Cutout], seed: int) -> Cutout:
    """A cut-out of the largest class that is the only one of its object. Raises InputRefused when there is none."""
    largest = max(CLASSES, key=[cutout.label for cutout in cutouts].count)
    sizes = Counter(cutout.object for cutout in cutouts)
    single = [cutout for cutout in cutouts if cutout.label == largest and sizes[cutout.object] == 1]
    if not single:
        raise InputRefused("no cut-out photo of an object of its own", largest, "The stamps are not the usual ones")
    return min(single, key=lambda cutout: _hash(seed, "unseen", cutout.name))


def assign_splits(cutouts: Sequence[Cutout], seed: int) -> dict[str, Split]:
    """Object -> split, for the cut-outs of one class.

    Objects come kind by kind, in an order given by the seed and their names. The first of each kind goes to train, so
    that no kind (mushrooms, say) is tested that was never shown; each other one to the first of test and val that
    is behind its share, else to train. Raises InputRefused when a split would be empty.
    """
    sizes = Counter(cutout.object for cutout in cutouts)
    kinds = {cutout.object: cutout.kind for cutout in reversed(cutouts)}
    splits: dict[str, Split] = {}
    dealt: Counter[Split] = Counter()
    for name in sorted(sizes, key=lambda name: (kinds[name], _hash(seed, name))):
        size, total = sizes[name], dealt.total() + sizes[name]
        shown = any(kinds[other] == kinds[name] for other in splits)
        behind = [split for split, share in SHARES.items() if dealt[split] + size / 2 <= share * total]
        splits[name] = behind[0] if shown and behind else "train"
        dealt[splits[name]] += size
    if set(splits.values()) != set(SPLITS):
        raise InputRefused(
            "too few objects for train, val and test", cutouts[0].label, "The stamps are not the usual ones"
        )
    return splits


def compose(cutout: Image.Image, textures: Sequence[Texture], size_px: int, random: np.random.Generator) -> Image.Image:
    """An RGB photo of `size_px` squared: the cut-out (RGBA), perhaps mirrored, turned, scaled and pasted somewhere on
    a backdrop."""
    item = cutout.crop(cutout.getchannel("A").getbbox())
    if random.random() < 0.5:
        item = item.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # Large cut-outs shrink first: turning all their pixels would take most of the time.
    item.thumbnail((2 * size_px, 2 * size_px))
    item = item.rotate(random.uniform(-MAX_TURN_DEGREES, MAX_TURN_DEGREES), Image.Resampling.BICUBIC, expand=True)
    scale = random.uniform(*OBJECT_SHARES) * size_px / max(item.size)
    item = item.resize(
        (max(1, round(item.width * scale)), max(1, round(item.height * scale))), Image.Resampling.BICUBIC
    )
    photo = backdrop(textures, size_px, random)
    left, top = random.integers(0, [size_px - item.width + 1, size_px - item.height + 1])
    photo.paste(item, (int(left), int(top)), item)
    return photo


def backdrop(textures: Sequence[Texture], size_px: int, random: np.random.Generator) -> Image.Image:
    """An RGB image of `size_px` squared: a tinted piece of a texture (uint8, grey), or a vertical gradient."""
    if random.random() >= TEXTURE_SHARE:
        top, bottom = random.integers(60, 256, (2, 1, 1, 3))
        weight = np.linspace(0, 1, size_px)[:, None, None]
        gradient = np.broadcast_to(top * (1 - weight) + bottom * weight, (size_px, size_px, 3))
        return Image.fromarray(gradient.astype(np.uint8))
    texture = textures[int(random.integers(len(textures)))]
    y, x = random.integers(0, np.subtract(texture.shape, TEXTURE_CROP_PX) + 1)
    piece = Image.fromarray(texture[y : y + TEXTURE_CROP_PX, x : x + TEXTURE_CROP_PX]).resize((size_px, size_px))
    return Image.fromarray((np.asarray(piece)[:, :, None] * random.uniform(0.5, 1, 3)).astype(np.uint8))


def load_textures() -> list[Texture]:
    """Photos of brick, grass and gravel: uint8 (512, 512), grey."""
    try:
        from skimage import data
    except ImportError as error:
        raise UsageError("the photos of stamps need scikit-image", "", 'Run: pip install "tljobs[demo]"') from error
    return [data.brick(), data.grass(), data.gravel()]


def _write_photos(photos: Sequence[Photo], draft: Path, composition: Composition, reporter: Reporter) -> None:
    textures = load_textures()
    for folder in {(draft / photo.place).parent for photo in photos}:
        folder.mkdir(parents=True)

    def write(photo: Photo) -> None:
        # One format only: Pillow would otherwise try all of its readers on whatever lies there.
        with Image.open(photo.cutout.path, formats=["PNG"]) as cutout:
            rgba = cutout.convert("RGBA")
        random = np.random.default_rng(int(_hash(composition.seed, photo.cutout.name, photo.number), 16))
        compose(rgba, textures, composition.size_px, random).save(draft / photo.place, quality=JPEG_QUALITY)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, _ in enumerate(pool.map(write, photos), start=1):
            reporter.progress("compose photos", done, len(photos))


def _hash(*address: object) -> str:
    return hashlib.sha256("/".join(map(str, address)).encode()).hexdigest()


def _digest(cutouts: Sequence[Cutout], composition: Composition) -> str:
    """Names what comes out: a hash of the rules, the composition and all cut-outs' bytes."""
    contents = [f"{cutout.name} {hashlib.sha256(cutout.path.read_bytes()).hexdigest()}" for cutout in cutouts]
    return _hash(COMPOSITION_VERSION, composition, *contents)[:12]
