"""What a user asks for. One definition per option: a command-line flag, a YAML key and a Python field are the same.

The models are frozen and refuse unknown fields. Fields that are positional on the command line say so; all others
are keyword options named after the field.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, ClassVar, Literal

from cyclopts import Parameter
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Spec(BaseModel):
    """Base of all specs. Fields named in `positional` are arguments on the command line, all others options."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    positional: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        for name, field in cls.model_fields.items():
            field.kw_only = name not in cls.positional

    def digest(self, exclude: frozenset[str] = frozenset()) -> str:
        """SHA-256 of the request without the fields in `exclude` (those that do not change the result)."""
        content = self.model_dump(mode="json", exclude=set(exclude))
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


Allowed = Literal["leakage", "label-conflicts"]


@Parameter(name="*")
class PrepareSpec(Spec):
    """Images and labels into a dataset."""

    positional = ("source",)

    source: str = Field(
        description="Folder of class folders (also below train/val/test) or with a metadata.csv; CSV, TSV, JSONL or"
        " Parquet table; TFRecord files; tar or zip of one of these. Local or s3://."
    )
    name: str = Field(description="Name of the dataset.")
    classes: tuple[str, ...] | None = Field(None, description="Class names in order (default: sorted labels).")
    image_column: str | None = Field(
        None, description="Column (or TFRecord feature) of the image: a path, a URI, or bytes (default: a usual name)."
    )
    label_column: tuple[str, ...] | None = Field(
        None, description="Column of the label; several times for one column of 0 and 1 per class (default: as above)."
    )
    label_separator: str | None = Field(
        None, min_length=1, description="What separates several labels in the label column, such as '|'."
    )
    split_column: str | None = Field(
        None, description="Column that says train, val or test (default: 'split', if there is one)."
    )
    group_by: str | None = Field(
        None,
        min_length=1,
        description="What must stay on one side of the split (patient, video, burst): a column, or for class folders a"
        " regular expression over the path with one group.",
    )
    split: str = Field(
        "80/10/10", description="Percent of train/val/test, used where the source gives no split of its own."
    )
    image_size: int = Field(224, ge=32, le=2048, description="Network input in pixels that the images are stored for.")
    seed: int = Field(0, ge=0, description="Seed of the shuffle.")
    workers: int | None = Field(None, ge=1, description="Parallel processes (default: all CPUs of the cluster).")
    max_rejected: float = Field(0.01, ge=0, le=1, description="Share of bad images above which nothing is published.")
    near_duplicates: Literal["together", "report", "off"] = Field(
        "together", description="Near duplicates: kept in one split, only reported, or not looked for."
    )
    allow: tuple[Allowed, ...] = Field(
        (), description="Publish in spite of leakage between given splits, or of many label conflicts; repeatable."
    )
    max_pixels: int = Field(100_000_000, ge=1, description="Images with more pixels are rejected unread.")
    background: str = Field("#ffffff", description="Colour under transparent pixels: a name, or #rrggbb.")
    decode_timeout_s: float = Field(
        60.0, gt=0, le=3600, description="Images that take more seconds of CPU time to decode are rejected."
    )
    shard_images: int = Field(2048, ge=64, description="Images per shard.")

    @field_validator("classes", mode="before")
    @classmethod
    def _classes_may_be_one_text(cls, names: Any) -> Any:
        """`--classes cat,dog` is one word to the command line; a single class could not be trained anyway."""
        return names[0].split(",") if isinstance(names, list | tuple) and len(names) == 1 else names

    @model_validator(mode="after")
    def _one_column_to_separate(self) -> PrepareSpec:
        if self.label_separator and len(self.label_column or ()) > 1:
            raise ValueError("label_separator needs one label_column; several are columns of 0 and 1")
        return self

    @field_validator("background")
    @classmethod
    def _background_is_a_colour(cls, text: str) -> str:
        from PIL import ImageColor

        try:
            red, green, blue = ImageColor.getcolor(text, "RGB")  # type: ignore[misc]
        except ValueError as error:
            raise ValueError("a colour such as white, or '#ff8800'") from error
        return f"#{red:02x}{green:02x}{blue:02x}"

    @field_validator("split")
    @classmethod
    def _split_adds_up(cls, text: str) -> str:
        if not re.fullmatch(r"\d{1,3}/\d{1,3}/\d{1,3}", text) or sum(map(int, text.split("/"))) != 100:
            raise ValueError("three whole percentages that add up to 100, such as 80/10/10")
        return text


@Parameter(name="*")
class AuditSpec(Spec):
    """What prepare noticed about a dataset."""

    positional = ("dataset",)

    dataset: str = Field(description="Dataset: NAME, or NAME@VERSION.")


class FitSpec(Spec):
    """What `train` and `tune` share: everything but the learning rate and the depth."""

    positional = ("dataset",)

    dataset: str = Field(description="Dataset: NAME, or NAME@VERSION.")
    name: str | None = Field(None, description="Name of the result (default: made from the request).")
    backbone: str = Field("efficientnet-lite0", description="Pretrained network: see `tljobs backbones`.")
    weights: str = Field("imagenet", description="Start weights: imagenet, none, or a .keras or .weights.h5 file.")
    image_size: int | None = Field(
        None, ge=32, le=2048, description="Network input in pixels (default: as the dataset was prepared)."
    )
    head: str = Field("linear", description="Head: linear, hidden units such as 512,256, or package.module:function.")
    dropout: float = Field(0.2, ge=0, lt=1, description="Dropout before the last layer of the head.")
    epochs: int = Field(10, ge=1, description="Epochs in all, over all phases.")
    head_epochs: int = Field(3, ge=0, description="Of these, epochs of the head alone (phase 1).")
    global_batch: int = Field(32, ge=1, description="Images per step, over all workers.")
    fine_tune_factor: float = Field(
        0.1, gt=0, le=1, description="Rate of the unfrozen phases, as a share of the learning rate."
    )
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="Optimizer.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay (adamw).")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="Learning rate within a phase.")
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up at the start of each phase.")
    clip_norm: float | None = Field(None, gt=0, description="Limit of the global gradient norm.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Label smoothing.")
    augment: Literal["crop-flip", "none"] = Field("crop-flip", description="Augmentation of training images.")
    keep_pixels: Literal["auto", "memory", "disk", "none"] = Field(
        "auto",
        description="Where decoded training images are kept after the first epoch (auto: in memory or on the local disk"
        " if they fit).",
    )
    batchnorm: Literal["frozen", "sync"] = Field(
        "frozen", description="BatchNorm of unfrozen blocks: frozen statistics, or synchronised over the workers."
    )
    monitor: Literal["val_accuracy", "val_loss"] = Field("val_accuracy", description="Metric that names the best.")
    patience: int | None = Field(None, ge=1, description="Stop a phase after this many epochs without a better one.")
    checkpoint_steps: int | None = Field(
        None, ge=1, description="Checkpoint every so many steps (default: at each epoch's end)."
    )
    seed: int = Field(0, ge=0, description="Seed of initial weights, order, augmentation and dropout.")
    workers: int = Field(1, ge=1, description="Training workers (processes), one device each.")
    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="Device of the workers (auto: GPU if any).")
    max_failures: int = Field(3, ge=0, description="How often lost workers are replaced.")

    @model_validator(mode="after")
    def _combinations(self) -> FitSpec:
        if self.global_batch % self.workers:
            raise ValueError(f"global_batch {self.global_batch} is not a multiple of workers {self.workers}")
        if self.weight_decay and self.optimizer != "adamw":
            raise ValueError("weight_decay needs optimizer adamw")
        return self


# Fields that say where and how, not what: two requests that differ only in these are the same request.
NOT_PART_OF_REQUEST = frozenset({"name", "workers", "device", "max_failures", "checkpoint_steps", "keep_pixels"})


@Parameter(name="*")
class TrainSpec(FitSpec):
    """One fine-tuning run."""

    learning_rate: float = Field(1e-3, gt=0, description="Learning rate of the head phase.")
    unfreeze: str = Field(
        "2",
        description="Depth of phase 2: head, a number of blocks from the top, a block's name, or all;"
        " several, such as 1,3,all, are unfrozen one after the other.",
    )

    def depths(self) -> tuple[str, ...]:
        """The asked depths in order, without the leading head phase."""
        return tuple(d.strip() for d in self.unfreeze.split(",") if d.strip() not in ("", "head"))


@Parameter(name="*")
class TuneSpec(FitSpec):
    """One search over learning rate and unfreeze depth."""

    learning_rate: str = Field("1e-4:1e-2", description="Rates 1e-4,1e-3 (a grid) or a range 1e-5:1e-2 (log scale).")
    unfreeze: str = Field("head,1,2", description="Depths to try: head, numbers of blocks, block names, all.")
    trials: int | None = Field(None, ge=1, description="Number of trials (default: the grid, or 8 from a range).")
    time_limit: float | None = Field(None, gt=0, description="Seconds after which no new trial starts.")
    asha: bool = Field(True, description="Stop bad trials early (ASHA).")
    concurrent: int | None = Field(None, ge=1, description="Trials at a time (default: what the cluster holds).")


@Parameter(name="*")
class EvaluateSpec(Spec):
    """Scores of a run's model on a split."""

    positional = ("run",)

    run: str = Field(description="Run whose model is evaluated.")
    split: Literal["train", "val", "test"] = Field("val", description="Split of the run's dataset.")


@Parameter(name="*")
class PredictSpec(Spec):
    """Labels for images."""

    positional = ("model", "inputs")

    model: str = Field(description="Run, or the folder of an exported model.")
    inputs: tuple[str, ...] = Field(description="Image files and folders; local or s3://.", min_length=1)
    out: str | None = Field(None, description="File to write instead of stdout.")
    format: Literal["jsonl", "csv", "parquet"] = Field("jsonl", description="Format of the rows.")
    top_k: int = Field(5, ge=1, description="Labels per image, best first.")


@Parameter(name="*")
class ExportSpec(Spec):
    """A run's model as files."""

    positional = ("run",)

    run: str = Field(description="Run whose model is exported.")
    format: Literal["keras"] = Field("keras", description="Format of the model.")
    out: str = Field(description="Folder to create.")


@Parameter(name="*")
class DoctorSpec(Spec):
    """Whether machine, cluster and store can do the job."""

    constraints: str | None = Field(
        None, description="File of exact versions, such as constraints.txt (default: what tljobs needs)."
    )
    min_disk_gb: float = Field(10, ge=0, description="Free disk below this is a warning.")
    min_memory_gb: float = Field(2, ge=0, description="Free memory below this is a warning.")


@Parameter(name="*")
class ExportDatasetSpec(Spec):
    """A dataset as files for other programs."""

    positional = ("dataset",)

    dataset: str = Field(description="Dataset: NAME, or NAME@VERSION.")
    format: Literal["tfrecord"] = Field("tfrecord", description="Format of the files.")
    split: tuple[Literal["train", "val", "test"], ...] = Field(
        ("train", "val", "test"), min_length=1, description="Split to export; several times for several."
    )
    out: str = Field(description="Folder to create.")
