"""What the system writes: the only persisted shapes. Frozen, versioned, JSON; nothing here reads or writes a store.

Sizes are in bytes, times in seconds, moments in ISO 8601 UTC. Every record carries a `token` unique to its writer, so
that a create-once write whose reply was lost can be recognised as one's own.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import secrets
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tljobs.errors import InputRefused

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
Task = Literal["single-label", "multi-label"]
TASKS: tuple[Task, ...] = ("single-label", "multi-label")


def now_utc() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def new_token() -> str:
    return secrets.token_hex(16)


def classes_digest(classes: tuple[str, ...]) -> str:
    """SHA-256 of the label map: names in index order."""
    return hashlib.sha256(json.dumps(list(classes), ensure_ascii=False).encode()).hexdigest()


class Record(BaseModel):
    """A persisted record. `to_bytes` and `from_bytes` are the only ways into and out of the store.

    A loss may be NaN or infinite; it is written as Python's json module writes it (NaN, Infinity), not as null.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")

    schema_version: int = 1

    def to_bytes(self) -> bytes:
        return (self.model_dump_json(indent=1) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "") -> Self:
        """Raises InputRefused when the bytes are no record of this kind or of a newer tljobs."""
        try:
            record = cls.model_validate_json(data)
        except ValidationError as error:
            hint = "The object was changed after it was written"
            raise InputRefused(f"damaged {cls.__name__}", where, hint) from error
        known = cls.model_fields["schema_version"].default
        if record.schema_version > known:
            raise InputRefused(
                f"{cls.__name__} of schema {record.schema_version}; this tljobs knows {known}", where, "Update tljobs"
            )
        return record


class Part(BaseModel):
    """A piece of a record."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")


class FileInfo(Part):
    """A file that belongs to a record: where it is and what its bytes must be."""

    key: str
    size_bytes: int
    sha256: str


class DecoderId(Part):
    """Which code turned bytes into pixels; a model refuses another one. `background` is the colour under transparent
    pixels, as #rrggbb."""

    id: str
    version: int
    background: str = "#ffffff"


# ---------------------------------------------------------------------------------------------------- datasets


class ShardInfo(FileInfo):
    """A Parquet shard; `row_groups` holds the number of rows of each row group."""

    rows: int
    row_groups: tuple[int, ...]


class SplitInfo(Part):
    """`thumbnails` holds the small images of each shard, row by row; datasets of earlier releases have none."""

    images: int
    per_class: tuple[int, ...]
    shards: tuple[ShardInfo, ...]
    thumbnails: tuple[ShardInfo, ...] = ()


class StagedSource(Record):
    """The commit of a source that was unpacked into the store: pack `i` holds the bytes of the files that index `i`
    lists. The same source gives the same record."""

    digest: str
    files: int
    packs: tuple[FileInfo, ...]
    indexes: tuple[FileInfo, ...]


class DatasetManifest(Record):
    """The commit of a dataset version. `image_size` is the network input (pixels, square) it was prepared for;
    images are stored with their shorter side `stored_short_side` pixels. `converted` counts accepted images by what was
    done to them: see tljobs.data.decode.Decoded."""

    name: str
    version: str
    source: str
    request: dict[str, Any]
    task: Task = "single-label"
    classes: tuple[str, ...]
    classes_sha256: str
    image_size: int
    stored_short_side: int
    decoder: DecoderId
    splits: dict[str, SplitInfo]
    index: FileInfo
    rejected: FileInfo
    audit: FileInfo | None = None
    rejected_count: int
    rejected_reasons: dict[str, int]
    converted: dict[str, int] = Field(default_factory=dict)
    duplicates: int
    ignored: tuple[str, ...]
    ignored_count: int
    environment: dict[str, str]
    created_utc: str
    token: str


Severity = Literal["blocks", "warns", "info"]


class Example(Part):
    """A file that shows a finding; `id` is empty where the file could not be read, `label` the class name."""

    id: str
    uri: str
    label: str


class Finding(Part):
    """Something that an audit noticed: `count` files, classes or groups, as `text` says; `option` overrules it."""

    code: str
    severity: Severity
    count: int
    text: str
    examples: tuple[Example, ...] = ()
    option: str = ""


class ClassCounts(Part):
    """A class and its images: kept ones in each split, and rejected files."""

    label: str
    splits: dict[str, int]
    rejected: int


class AuditReport(Record):
    """What prepare noticed about the files of a source. `files` are all that were listed, `images` those in the
    dataset. `short_side_px` and `brightness` (0 to 255) are quantiles over the images: min, p5, median, p95, max."""

    files: int
    images: int
    rejected: dict[str, int]
    duplicates: int
    near_groups: int
    classes: tuple[ClassCounts, ...]
    formats: dict[str, int]
    modes: dict[str, int]
    short_side_px: dict[str, float]
    brightness: dict[str, float]
    findings: tuple[Finding, ...]


# -------------------------------------------------------------------------------------------------------- runs

EventKind = Literal[
    "attempt_started",
    "attempt_failed",
    "phase_started",
    "checkpoint",
    "warning",
    "stop_requested",
    "stopped",
    "failed",
    "finished",
]
Status = Literal["created", "running", "interrupted", "stopped", "failed", "finished"]


class PhasePlan(Part):
    """One phase of training: what is trainable, at which rate, for how long."""

    name: str
    depth: str
    epochs: int
    steps: int
    learning_rate: float
    trainable_parameters: int
    frozen_parameters: int


class RunRecord(Record):
    """Reserves the run's name. `spec` is the whole TrainSpec; `request_sha256` identifies what was asked for."""

    run: str
    spec: dict[str, Any]
    request_sha256: str
    dataset: str
    version: str
    manifest_sha256: str
    classes: tuple[str, ...]
    classes_sha256: str
    search: str | None = None
    environment: dict[str, str]
    created_utc: str
    token: str


class Event(Record):
    """One fact in the history of a run or a search; numbered, create-once, never edited."""

    seq: int
    kind: EventKind
    attempt: int = 0
    step: int = 0
    time_utc: str
    data: dict[str, Any] = Field(default_factory=dict)
    token: str


class Heartbeat(Record):
    """Overwritten by the process that drives a run, every few seconds. Not a commit: only says 'alive'."""

    host: str
    pid: int
    time_utc: str


class StepRow(Part):
    """A training step. `loss` and `accuracy` are means over the global batch."""

    step: int
    phase: str
    epoch: int
    loss: float
    accuracy: float
    learning_rate: float
    grad_norm: float


class EpochRow(Part):
    """An epoch: means over all its images; `wall_s` includes validation, `wait_s` is time spent waiting for data."""

    phase: str
    epoch: int
    step: int
    images: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    wall_s: float
    wait_s: float


class MetricsPiece(Record):
    """What one attempt measured between two checkpoints. Pieces of an attempt after the step from which a later
    attempt resumed do not count: see tljobs.runs."""

    attempt: int
    steps: tuple[StepRow, ...] = ()
    epochs: tuple[EpochRow, ...] = ()


class Position(Part):
    """Where training stands: `phase` counts phases from 0, `epoch` counts epochs in the phase, `epoch_step` counts
    the steps already made in that epoch, `step` counts all steps since the start."""

    phase: int
    epoch: int
    epoch_step: int
    step: int


class CheckpointCommit(Record):
    """Written last, after all workers agreed on `variables_sha256`. `loop_state` holds the state of the schedule,
    early stopping and the best score so far."""

    run: str
    attempt: int
    position: Position
    state: FileInfo
    variables_sha256: str
    loop_state: dict[str, Any]
    val_accuracy: float | None
    val_loss: float | None
    created_utc: str
    token: str


# -------------------------------------------------------------------------------------- evaluations and models


class ClassScores(Part):
    """Scores of one class; a value is None where it is undefined (no images of the class, or none predicted). The
    areas are computed for multi-label models."""

    label: str
    images: int
    precision: float | None
    recall: float | None
    f1: float | None
    auroc: float | None = None
    average_precision: float | None = None


class EvaluationReport(Record):
    """Scores of one run on one split. `confusion[i][j]` counts images of class i predicted as class j; it is empty for
    a multi-label model. `intervals` holds 95 % intervals [low, high] of the scores that have one."""

    run: str
    evaluation: str
    split: str
    dataset: str
    version: str
    model_sha256: str
    images: int
    task: Task = "single-label"
    classes: tuple[str, ...]
    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    per_class: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    predictions: FileInfo
    created_utc: str
    token: str


class Replay(Part):
    """The exported model, opened in a clean process, against the run's own validation probabilities."""

    images: int
    max_abs_difference: float
    labels_changed: int


class ModelRecord(Record):
    """The commit of a model: bytes -> decode -> short side `stored_short_side` -> centre crop `image_size` -> file."""

    run: str
    file: FileInfo
    task: Task = "single-label"
    classes: tuple[str, ...]
    classes_sha256: str
    decoder: DecoderId
    stored_short_side: int
    crop_size: int
    image_size: int
    backbone: str
    weights_sha256: str | None
    dataset: str
    version: str
    manifest_sha256: str
    checkpoint_step: int
    scores: dict[str, float]
    replay: Replay
    environment: dict[str, str]
    created_utc: str
    token: str


# ------------------------------------------------------------------------------------------------------ searches


class SearchRecord(Record):
    """Reserves the name of a search; its trials are runs named `{search}-{number:03}`."""

    search: str
    spec: dict[str, Any]
    request_sha256: str
    dataset: str
    version: str
    environment: dict[str, str]
    created_utc: str
    token: str
