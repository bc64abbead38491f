"""What the verbs return, and what `--json` prints: the documented fields, more are welcome, these stay."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Result(BaseModel):
    """Base: `made` says what was made and where, `next_command` what to type next; both are not part of the JSON."""

    model_config = ConfigDict(frozen=True)

    made: str = Field("", exclude=True)
    next_command: str = Field("", exclude=True)


class PrepareResult(Result):
    dataset: str
    version: str
    manifest_sha256: str
    classes: list[str]
    images: dict[str, int]
    rejected: int
    converted: dict[str, int] = Field(default_factory=dict)
    duplicates: int
    reused: bool


class TrainResult(Result):
    """`scores` maps split -> score -> value, with the 95 % interval of the accuracy as `accuracy_low`/`_high`."""

    run: str
    status: str
    dataset: str
    version: str
    scores: dict[str, dict[str, float]]
    wall_s: float
    images_per_s: float
    reused: bool


class TrialResult(BaseModel):
    model_config = ConfigDict(frozen=True)

    run: str
    status: str
    learning_rate: float
    unfreeze: str
    score: float | None
    wall_s: float
    prefix: str = "none"


class TuneResult(Result):
    search: str
    status: str
    best: str | None
    trials: list[TrialResult]
    scores: dict[str, dict[str, float]]
    wall_s: float
    reused: bool


class EvaluateResult(Result):
    run: str
    split: str
    images: int
    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    per_class: list[dict[str, Any]]
    confusion: list[list[int]]
    classes: list[str]
    predictions: str


class PredictionRow(BaseModel):
    """One input. `status` is `ok` or the decoder's reason code; the others are None where it is not `ok`."""

    model_config = ConfigDict(frozen=True)

    input: str
    status: str
    label: str | None = None
    score: float | None = None
    unknown: bool = False
    top: list[tuple[str, float]] = Field(default_factory=list)


class ExportResult(Result):
    run: str
    format: str
    out: str
    files: list[str]
    sha256: str


class ExportDatasetResult(Result):
    """`images` counts those of each split, `size_bytes` all files together."""

    dataset: str
    version: str
    format: str
    out: str
    images: dict[str, int]
    classes: list[str]
    files: list[str]
    size_bytes: int
