"""A published dataset as TFRecord files: verified shards in, one file per shard in a new local folder out.

The features are those of TensorFlow's own conversion scripts (models/research/slim/datasets), so that its readers, and
`prepare`, know them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from tljobs.data.formats import sniff
from tljobs.data.shards import read_row_group, verify_shard
from tljobs.data.sources.example import bytes_feature, int64_feature, write_example
from tljobs.data.sources.framing import write_record
from tljobs.errors import InputRefused
from tljobs.new_folder import free_folder, new_folder
from tljobs.progress import SILENT, Reporter
from tljobs.records import SPLITS, DatasetManifest, ShardInfo
from tljobs.results import ExportDatasetResult
from tljobs.runs import open_dataset
from tljobs.specs import ExportDatasetSpec
from tljobs.store import Store

LABELS_FILE = "labels.txt"  # one class per line; line i names `image/class/label` i


def export_dataset(
    spec: ExportDatasetSpec, store: Store, reporter: Reporter = SILENT, *, dry_run: bool = False
) -> ExportDatasetResult | None:
    """Creates the folder `spec.out` with SPLIT-i-of-n.tfrecord for each shard, and labels.txt. None with `dry_run`.

    The folder appears when it is complete. Raises NotFound without the dataset, NameTaken when the folder has something
    in it, InputRefused when the splits have no images or a shard is not the one of the manifest, Unreachable when the
    store cannot be read or the folder cannot be written.
    """
    out = free_folder(spec.out, "a dataset")
    manifest = open_dataset(store, spec.dataset)
    splits = {name: manifest.splits[name] for name in SPLITS if name in spec.split and name in manifest.splits}
    images: dict[str, int] = {name: info.images for name, info in splits.items()}
    shards = [shard for info in splits.values() for shard in info.shards]
    if not shards:
        raise InputRefused(
            f"the dataset has no {' or '.join(spec.split)} images", f"{manifest.name}@{manifest.version}"
        )
    reporter.plan(f"export-dataset {spec.dataset}", _plan_rows(spec, manifest, images, shards, out))
    if dry_run:
        return None
    with new_folder(out, "the dataset") as draft:
        _write_files(draft, shards, store, manifest, reporter)
        size_bytes = sum(path.stat().st_size for path in draft.iterdir())
    return ExportDatasetResult(
        dataset=manifest.name,
        version=manifest.version,
        format=spec.format,
        out=str(out),
        images=images,
        classes=list(manifest.classes),
        files=sorted(path.name for path in out.iterdir()),
        size_bytes=size_bytes,
        made=f"{len(shards)} TFRecord files of {manifest.name}@{manifest.version} in {out}: {sum(images.values())}"
        f" images, {size_bytes / 1e6:.1f} MB",
        next_command=_next_command(out, manifest),
    )


def example_bytes(image_id: str, image: bytes, labels: Sequence[int], classes: Sequence[str]) -> bytes:
    """An image as a serialised tf.train.Example; `labels` are class indices, any number of them."""
    return write_example(
        {
            "image/encoded": bytes_feature([image]),
            "image/format": bytes_feature([sniff(image).encode()]),
            "image/class/label": int64_feature(labels),
            "image/class/text": bytes_feature([classes[label].encode() for label in labels]),
            "image/id": bytes_feature([image_id.encode()]),
        }
    )


def _plan_rows(
    spec: ExportDatasetSpec, manifest: DatasetManifest, images: dict[str, int], shards: Sequence[ShardInfo], out: Path
) -> list[tuple[str, str]]:
    counts = ", ".join(f"{name} {count}" for name, count in images.items())
    return [
        ("dataset", f"{manifest.name}@{manifest.version}, {manifest.task}, {len(manifest.classes)} classes"),
        ("images", counts),
        ("format", f"{spec.format}, {len(shards)} files"),
        ("size", f"about {sum(shard.size_bytes for shard in shards) / 1e6:.1f} MB"),
        ("folder", str(out)),
    ]


def _write_files(
    folder: Path, shards: Sequence[ShardInfo], store: Store, manifest: DatasetManifest, reporter: Reporter
) -> None:
    (folder / LABELS_FILE).write_text("".join(f"{label}\n" for label in manifest.classes), encoding="utf-8")
    done, total = 0, sum(shard.rows for shard in shards)
    for shard in shards:
        verify_shard(store, shard)
        name = PurePosixPath(shard.key).with_suffix(".tfrecord").name
        with (folder / name).open("xb") as file:
            for data in _examples(store, shard, manifest.classes):
                write_record(file, data)
        done += shard.rows
        reporter.progress("writing", done, total)


def _examples(store: Store, shard: ShardInfo, classes: Sequence[str]) -> Iterator[bytes]:
    """The rows of a shard in their order, one row group in memory at a time."""
    for group in range(len(shard.row_groups)):
        for image_id, image, labels in zip(*read_row_group(store, shard, group), strict=True):
            yield example_bytes(image_id, image, labels, classes)


def _next_command(out: Path, manifest: DatasetManifest) -> str:
    """How to prepare the files again, in the same order of classes."""
    words = ["tljobs", "prepare", str(out), "--name", "NAME", "--image-size", str(manifest.image_size)]
    if list(manifest.classes) != sorted(manifest.classes):
        words += [word for name in manifest.classes for word in ("--classes", name)]
    return shlex.join(words)
