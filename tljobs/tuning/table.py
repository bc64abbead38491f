"""The result of a search as a table: depth × rate -> score, time. Pure."""

from __future__ import annotations

import io
from collections.abc import Sequence

from tljobs.records import EpochRow
from tljobs.results import TrialResult
from tljobs.runs import Run


def trial_result(run: Run, epochs: Sequence[EpochRow]) -> TrialResult:
    """A trial's row; its score is the validation accuracy of its best epoch."""
    return TrialResult(
        run=run.name,
        status=run.status,
        learning_rate=run.record.spec["learning_rate"],
        unfreeze=run.record.spec["unfreeze"],
        score=max((row.val_accuracy for row in epochs), default=None),
        wall_s=round(sum(row.wall_s for row in epochs), 2),
    )


def best_of(trials: Sequence[tuple[TrialResult, Sequence[EpochRow]]]) -> str | None:
    """The run with the best validation accuracy; equal ones are told apart by loss, then by the trial's number."""
    finished = [(trial, epochs) for trial, epochs in trials if trial.status == "finished" and epochs]
    if not finished:
        return None
    return max(finished, key=lambda item: max((row.val_accuracy, -row.val_loss) for row in item[1]))[0].run


def trials_parquet(trials: Sequence[TrialResult]) -> bytes:
    """One row per trial, flat columns, readable by anything."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("run", pa.string()),
            ("status", pa.string()),
            ("learning_rate", pa.float64()),
            ("unfreeze", pa.string()),
            ("score", pa.float64()),
            ("wall_s", pa.float64()),
            ("prefix", pa.string()),
        ]
    )
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([trial.model_dump() for trial in trials], schema=schema), sink)
    return sink.getvalue()


def score_table(trials: Sequence[TrialResult]) -> str:
    """Depths as rows, rates as columns, validation accuracy in the cells; '-' where there is no trial."""
    rates = sorted({trial.learning_rate for trial in trials})
    depths = list(dict.fromkeys(trial.unfreeze for trial in trials))
    cells = {(trial.unfreeze, trial.learning_rate): trial.score for trial in trials}
    lines = ["depth \\ rate " + " ".join(f"{rate:>9.2g}" for rate in rates)]
    for depth in depths:
        scores = (cells.get((depth, rate)) for rate in rates)
        lines.append(f"{depth:<12} " + " ".join(f"{'-' if s is None else format(s, '.3f'):>9}" for s in scores))
    return "\n".join(lines)
