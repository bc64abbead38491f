"""What prepare decides between reading the files and writing the shards: pure functions of a listing and of hashes.

Images with known content flow in; the version, the tasks that write one shard each, and refusals flow out. The tasks
and their reports travel between processes as JSON.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tljobs import layout
from tljobs.data.decode import DECODER
from tljobs.data.formats import heif_is_installed
from tljobs.data.isolate import DEFAULT_TIMEOUT_S
from tljobs.data.probe import Inspected
from tljobs.data.sources import Listing
from tljobs.data.split import Image
from tljobs.errors import InputRefused
from tljobs.records import SPLITS, DecoderId, Part, ShardInfo, Split, Task
from tljobs.specs import PrepareSpec

if TYPE_CHECKING:
    import pyarrow as pa

VERSION_HEX_DIGITS = 12
EXAMPLES_PER_REASON = 3


class Rejected(Part):
    """A file that is not in the dataset: `label` is the class name (several with `|` between them), `reason` a code,
    `detail` text."""

    uri: str
    label: str
    reason: str
    detail: str


class Decoding(Part):
    """How foreign bytes become stored images; `timeout_s` is CPU time per image."""

    short_side: int
    max_pixels: int
    background: str = DECODER.background
    timeout_s: float = DEFAULT_TIMEOUT_S


class InspectTask(Part):
    """Files to inspect, where they are read from, and how large the listing says they are. Their drafts go to
    `draft_key`."""

    addresses: tuple[str, ...]
    sizes_bytes: tuple[int, ...]
    draft_key: str


class InspectReport(Part):
    """One entry per address of the task, in its order."""

    files: tuple[Inspected, ...]


class Stored(Part):
    """Where an earlier version holds an image as it is to be stored: row `row` of a shard. `known` are the fields of
    its IndexRow that depend on the content alone."""

    shard_key: str
    row: int
    known: dict[str, Any]


class PlannedImage(Part):
    """`address` is what is read; `labels` are indices into the classes: one, or any number in a multi-label dataset."""

    uri: str
    address: str
    sha256: str
    labels: tuple[int, ...]


class Drafted(Part):
    """Where the first pass left an image in the form that is stored for training: `address` is what is read, `check`
    the first hex digits of the SHA-256, and the first `image_bytes` of it are the image, the others its thumbnail.
    `known` is as in Stored."""

    address: str
    check: str
    image_bytes: int
    known: dict[str, Any]


class TaskImage(PlannedImage):
    """An image of a shard to be written; `stored` is set where an earlier version has it, `drafted` where the first
    pass made it."""

    stored: Stored | None = None
    drafted: Drafted | None = None


class ShardTask(Part):
    """Shard `shard` (from 0) of a split, written to `key` from these images, in this order, and their thumbnails to
    `thumbnails_key`. `earlier` are the shards, with their thumbnails, that hold those of them which can be copied."""

    key: str
    thumbnails_key: str
    split: Split
    shard: int
    task: Task
    images: tuple[TaskImage, ...]
    earlier: tuple[tuple[ShardInfo, ShardInfo], ...] = ()


class IndexRow(PlannedImage):
    """An image as it was written; its row is its place in the report. Sizes are the original's, upright. `converted`
    says what was done to it: the conversions of tljobs.data.decode.Decoded, and `wrong_extension`."""

    width_px: int
    height_px: int
    source_format: str
    converted: tuple[str, ...] = ()


class ShardReport(Part):
    """What became of a task's images: each is a row or rejected; `copied` rows come from an earlier version."""

    split: Split
    shard: int
    info: ShardInfo
    thumbnails: ShardInfo
    rows: tuple[IndexRow, ...]
    rejected: tuple[Rejected, ...]
    copied: int = 0


@dataclass(frozen=True, kw_only=True)
class Placed:
    """An image and its split."""

    image: Image
    split: Split


@dataclass(frozen=True, kw_only=True)
class DatasetPlan:
    """What will be written. Every file of the listing is once in `placed`, in `duplicates` or in `rejected`.

    `files` is the table of FILES_SCHEMA that the audit is made of; without it nothing is audited.
    """

    spec: PrepareSpec
    listing: Listing
    placed: tuple[Placed, ...]
    duplicates: int
    rejected: tuple[Rejected, ...]
    files: pa.Table | None = None

    @functools.cached_property
    def version(self) -> str:
        return dataset_version(self.spec, self.listing.classes, self.placed)

    def refuse_if_too_many(self, rejected: Sequence[Rejected]) -> None:
        """Raises InputRefused when `rejected` are more than the spec allows."""
        excused = "label-conflicts" in self.spec.allow
        counted = [each for each in rejected if not (excused and each.reason == "label_conflict")]
        refuse_if_too_many(counted, len(self.listing.files), self.spec.max_rejected, self.listing.source)


def stored_short_side(image_size: int) -> int:
    """Pixels of the shorter side as stored: an eighth above the network's input, so that random crops have room.
    224 becomes 256, the usual pair of evaluation on ImageNet."""
    return -(-image_size * 8 // 7)


def decoding_of(spec: PrepareSpec) -> Decoding:
    return Decoding(
        short_side=stored_short_side(spec.image_size),
        max_pixels=spec.max_pixels,
        background=spec.background,
        timeout_s=spec.decode_timeout_s,
    )


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
        "images": sorted((each.image.sha256, each.image.labels, each.split) for each in placed),
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


def shard_tasks(
    plan: DatasetPlan,
    stored: Callable[[str, Split], Stored | None] = lambda sha256, split: None,
    earlier: Mapping[str, tuple[ShardInfo, ShardInfo]] = MappingProxyType({}),
    drafted: Callable[[str], Drafted | None] = lambda sha256: None,
) -> Iterator[ShardTask]:
    """One task per shard, made when it is asked for: all of them at a time would take much memory. Validation and test
    come first, because their lossless form takes the longest.

    Args:
        plan: what is to be written.
        stored: says where an image (SHA-256) lies as it is to be stored in a split.
        earlier: the shards that it speaks of, with their thumbnails, by key.
        drafted: says where the first pass left an image (SHA-256).
    """
    label_of = {name: index for index, name in enumerate(plan.listing.classes)}

    def task_image(image: Image, split: Split) -> TaskImage:
        copy = stored(image.sha256, split)
        return TaskImage(
            uri=image.uri,
            address=image.address,
            sha256=image.sha256,
            labels=tuple(label_of[name] for name in image.labels),
            stored=copy,
            drafted=drafted(image.sha256) if split == "train" and not copy else None,
        )

    for split in reversed(SPLITS):
        placed = shuffled([each for each in plan.placed if each.split == split], plan.spec.seed)
        bounds = slices(len(placed), plan.spec.shard_images)
        for shard, (first, end) in enumerate(bounds):
            place = (plan.spec.name, plan.version, split, shard, len(bounds))
            own = tuple(task_image(each.image, split) for each in placed[first:end])
            needed = sorted({image.stored.shard_key for image in own if image.stored})
            yield ShardTask(
                key=layout.dataset_shard(*place),
                thumbnails_key=layout.dataset_thumbnails(*place),
                split=split,
                shard=shard,
                task=plan.listing.task,
                images=own,
                earlier=tuple(earlier[each] for each in needed),
            )
