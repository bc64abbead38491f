"""What prepare decides between reading the files and writing the shards: pure functions of a listing and of hashes.

Images with known content flow in; the version, the tasks that write one shard each, and refusals flow out. The tasks
and their reports travel between processes as JSON.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tljobs import layout
from tljobs.data.decode import DECODER
from tljobs.data.formats import heif_is_installed
from tljobs.data.sources import Listing
from tljobs.data.split import Image
from tljobs.errors import InputRefused
from tljobs.records import SPLITS, DecoderId, Part, ShardInfo, Split
from tljobs.specs import PrepareSpec

VERSION_HEX_DIGITS = 12
EXAMPLES_PER_REASON = 3


class Rejected(Part):
    """A file that is not in the dataset: `label` is the class name, `reason` a code, `detail` text."""

    uri: str
    label: str
    reason: str
    detail: str


class HashTask(Part):
    """Files to hash, and how large the listing says they are."""

    uris: tuple[str, ...]
    sizes_bytes: tuple[int, ...]


class Hashed(Part):
    """SHA-256 of a file's bytes, or why there is none."""

    sha256: str = ""
    reason: str = ""
    detail: str = ""


class HashReport(Part):
    """One entry per uri of the task, in its order."""

    files: tuple[Hashed, ...]


class PlannedImage(Part):
    """`label` is an index into the classes."""

    uri: str
    sha256: str
    label: int


class ShardTask(Part):
    """Shard `shard` (from 0) of `shards` in `split`, written to `key` from these images, in this order."""

    key: str
    split: Split
    shard: int
    images: tuple[PlannedImage, ...]


class IndexRow(PlannedImage):
    """An image as it was written; its row is its place in the report. Sizes are the original's, upright. `converted`
    says what was done to it: the conversions of tljobs.data.decode.Decoded, and `wrong_extension`."""

    width_px: int
    height_px: int
    source_format: str
    converted: tuple[str, ...] = ()


class ShardReport(Part):
    """What became of a task's images: each is a row or rejected. `label` of a rejected one is the index as text."""

    split: Split
    shard: int
    info: ShardInfo
    rows: tuple[IndexRow, ...]
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True, kw_only=True)
class Placed:
    """An image and its split."""

    image: Image
    split: Split


@dataclass(frozen=True, kw_only=True)
class DatasetPlan:
    """What will be written. Every file of the listing is once in `placed`, in `duplicates` or in `rejected`."""

    spec: PrepareSpec
    listing: Listing
    placed: tuple[Placed, ...]
    duplicates: int
    rejected: tuple[Rejected, ...]

    @functools.cached_property
    def version(self) -> str:
        return dataset_version(self.spec, self.listing.classes, self.placed)

    def refuse_if_too_many(self, rejected: Sequence[Rejected]) -> None:
        """Raises InputRefused when `rejected` are more than the spec allows."""
        refuse_if_too_many(rejected, len(self.listing.files), self.spec.max_rejected, self.listing.source)


def stored_short_side(image_size: int) -> int:
    """Pixels of the shorter side as stored: an eighth above the network's input, so that random crops have room.
    224 becomes 256, the usual pair of evaluation on ImageNet."""
    return -(-image_size * 8 // 7)


def decoder_of(spec: PrepareSpec) -> DecoderId:
    """The decoder as the spec sets it: what manifest and model name."""
    return DECODER.model_copy(update={"background": spec.background})


def dataset_version(spec: PrepareSpec, classes: Sequence[str], placed: Sequence[Placed]) -> str:
    """A version that changes with everything that changes the shards, and with nothing else: not with the names or
    the place of the files, not with the number of workers."""
    content = {
        "decoder": decoder_of(spec).model_dump(),
        "heif": heif_is_installed(),
        "image_size": spec.image_size,
        "max_pixels": spec.max_pixels,
        "decode_timeout_s": spec.decode_timeout_s,
        "split": spec.split,
        "seed": spec.seed,
        "shard_images": spec.shard_images,
        "classes": list(classes),
        "images": sorted((each.image.sha256, each.image.label, each.split) for each in placed),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:VERSION_HEX_DIGITS]


def shuffled(placed: Sequence[Placed], seed: int) -> list[Placed]:
    """In an order that is a function of the seed and the contents alone."""

    def rank(each: Placed) -> bytes:
        return hashlib.sha256(f"tljobs-order-1:{seed}:{each.image.sha256}".encode()).digest()

    return sorted(placed, key=rank)


def slices(images: int, shard_images: int) -> list[tuple[int, int]]:
    """(first, end) of each shard: as few shards as `shard_images` allows, of equal size within one."""
    count = -(-images // shard_images)
    return [(images * shard // count, images * (shard + 1) // count) for shard in range(count)]


def refuse_if_too_many(rejected: Sequence[Rejected], files: int, max_rejected: float, source: str) -> None:
    """Raises InputRefused with the reasons, their counts and examples when more than the allowed share is bad."""
    if len(rejected) <= max_rejected * files:
        return
    counts = Counter(each.reason for each in rejected)
    reasons = [f"{reason}: {count} ({_examples(rejected, reason)})" for reason, count in counts.most_common()]
    share = len(rejected) / files
    raise InputRefused(
        f"{len(rejected)} of {files} images rejected ({share:.1%}), more than {max_rejected:.1%}",
        source,
        f"{'; '.join(reasons)}. Mend or remove them, or allow more with --max-rejected",
    )


def _examples(rejected: Sequence[Rejected], reason: str) -> str:
    uris = sorted(each.uri for each in rejected if each.reason == reason)
    more = ", …" if len(uris) > EXAMPLES_PER_REASON else ""
    return ", ".join(uris[:EXAMPLES_PER_REASON]) + more


def shard_tasks(plan: DatasetPlan) -> list[ShardTask]:
    """One task per shard; validation and test first, because their lossless form takes the longest."""
    label_of = {name: index for index, name in enumerate(plan.listing.classes)}
    tasks: list[ShardTask] = []
    for split in reversed(SPLITS):
        images = [
            PlannedImage(uri=each.image.uri, sha256=each.image.sha256, label=label_of[each.image.label])
            for each in shuffled([each for each in plan.placed if each.split == split], plan.spec.seed)
        ]
        bounds = slices(len(images), plan.spec.shard_images)
        for shard, (first, end) in enumerate(bounds):
            key = layout.dataset_shard(plan.spec.name, plan.version, split, shard, len(bounds))
            tasks.append(ShardTask(key=key, split=split, shard=shard, images=tuple(images[first:end])))
    return tasks
