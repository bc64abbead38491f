"""Writes down what training does: metrics in pieces, events, TensorBoard files. Only rank 0 writes."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from tljobs import layout
from tljobs.backbones.network import Network
from tljobs.records import CheckpointCommit, EpochRow, MetricsPiece, PhasePlan, Position, StepRow
from tljobs.runs import run_journal
from tljobs.store import Store


class Recorder:
    """Rows are kept until `flush`, which precedes every checkpoint: so a step that counts has its row."""

    def __init__(self, store: Store, run: str, attempt: int, *, writes: bool) -> None:
        self._store = store
        self._run = run
        self._attempt = attempt
        self._writes = writes
        self._journal = run_journal(store, run)
        self._steps: list[StepRow] = []
        self._epochs: list[EpochRow] = []
        self._folder = tempfile.TemporaryDirectory(prefix="tljobs-tensorboard-")
        self._tensorboard = tf.summary.create_file_writer(self._folder.name) if writes else None

    def step(self, row: StepRow) -> None:
        self._steps.append(row)

    def epoch(self, row: EpochRow) -> None:
        self._epochs.append(row)

    def phase_started(self, position: Position, plan: PhasePlan, network: Network, notes: Sequence[str]) -> None:
        if self._writes:
            weights = dataclasses.asdict(network.weights)
            data = {**plan.model_dump(mode="json"), "notes": [*network.notes, *notes], "weights": weights}
            self._journal.append("phase_started", attempt=self._attempt, step=position.step, data=data)

    def checkpoint(self, commit: CheckpointCommit, phase: str) -> None:
        data = {
            "phase": phase,
            "epoch": commit.position.epoch,
            "val_accuracy": commit.val_accuracy,
            "val_loss": commit.val_loss,
            "variables_sha256": commit.variables_sha256,
        }
        self._journal.append("checkpoint", attempt=self._attempt, step=commit.position.step, data=data)

    def flush(self, step: int) -> None:
        """Publishes the rows so far as one piece, and the TensorBoard file as it stands."""
        if not self._writes or not (self._steps or self._epochs):
            return
        piece = MetricsPiece(attempt=self._attempt, steps=tuple(self._steps), epochs=tuple(self._epochs))
        self._store.put(layout.run_metrics_piece(self._run, self._attempt, step), piece.to_bytes())
        self._write_tensorboard()
        self._steps.clear()
        self._epochs.clear()

    def close(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()
        self._folder.cleanup()

    def _write_tensorboard(self) -> None:
        if self._tensorboard is None:
            return
        with self._tensorboard.as_default():
            for row in self._steps:
                for name in ("loss", "accuracy", "learning_rate", "grad_norm"):
                    tf.summary.scalar(f"train/{name}", getattr(row, name), step=row.step)
            for epoch in self._epochs:
                tf.summary.scalar("val/loss", epoch.val_loss, step=epoch.step)
                tf.summary.scalar("val/accuracy", epoch.val_accuracy, step=epoch.step)
        self._tensorboard.flush()
        for file in Path(self._folder.name).glob("events.out.tfevents.*"):
            self._store.put(layout.run_tensorboard(self._run, self._attempt), file.read_bytes())
