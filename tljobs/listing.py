"""Datasets, runs and searches as rows: for tables on a terminal and for `--json`."""

from __future__ import annotations

from typing import Any

from tljobs.runs import Run, list_datasets, list_runs, list_searches, open_run, run_metrics
from tljobs.store import Store


def dataset_rows(store: Store) -> list[dict[str, Any]]:
    return [
        {
            "dataset": manifest.name,
            "version": manifest.version,
            "classes": len(manifest.classes),
            "images": {split: info.images for split, info in manifest.splits.items()},
            "rejected": manifest.rejected_count,
            "image_size": manifest.image_size,
            "created": manifest.created_utc,
        }
        for manifest in list_datasets(store)
    ]


def run_rows(store: Store) -> list[dict[str, Any]]:
    return [_run_row(run) for run in list_runs(store)]


def search_rows(store: Store) -> list[dict[str, Any]]:
    return [
        {
            "search": search.record.search,
            "status": search.status,
            "dataset": search.record.dataset,
            "trials": len(search.trials),
            "best": search.best,
            "started": search.record.created_utc,
        }
        for search in list_searches(store)
    ]


def run_details(store: Store, name: str) -> dict[str, Any]:
    """Everything about a run, for `runs show`."""
    run = open_run(store, name)
    _, epochs = run_metrics(store, run)
    return {
        **_run_row(run),
        "spec": run.record.spec,
        "phases": run.plan,
        "epochs": [row.model_dump() for row in epochs],
        "failure": run.failure,
        "history": [{"time": e.time_utc, "kind": e.kind, "attempt": e.attempt, "step": e.step} for e in run.events],
        "environment": run.record.environment,
    }


def run_text(details: dict[str, Any]) -> str:
    """`run_details` for a terminal."""
    head = {key: details[key] for key in ("run", "status", "dataset", "version", "backbone", "started")}
    parts = ["\n".join(f"{key:<10} {value}" for key, value in head.items())]
    for split, scores in details["scores"].items():
        interval = f"{scores['accuracy_low']:.3f} to {scores['accuracy_high']:.3f}"
        parts.append(f"{split}: accuracy {scores['accuracy']:.4f} (95 % {interval}), loss {scores['loss']:.4f}")
    if details["failure"]:
        told = (details["failure"].get(key, "") for key in ("what", "where", "hint"))
        parts.append("failed: " + ". ".join(filter(None, told)))
    columns = ("name", "depth", "epochs", "learning_rate", "trainable_parameters", "frozen_parameters")
    parts.append(table([{name: phase[name] for name in columns} for phase in details["phases"]], empty="no phase yet"))
    shown = ("phase", "epoch", "step", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "wall_s")
    parts.append(table([{name: row[name] for name in shown} for row in details["epochs"]], empty="no epoch yet"))
    return "\n\n".join(parts)


def table(rows: list[dict[str, Any]], *, empty: str) -> str:
    """Rows as aligned columns."""
    if not rows:
        return empty
    cells = [list(rows[0])] + [[_cell(value) for value in row.values()] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _run_row(run: Run) -> dict[str, Any]:
    return {
        "run": run.name,
        "status": run.status,
        "dataset": run.record.dataset,
        "version": run.record.version,
        "backbone": run.record.spec["backbone"],
        "scores": run.scores,
        "started": run.record.created_utc,
        "search": run.record.search,
    }


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return " ".join(f"{key}={_cell(_first(item))}" for key, item in value.items())
    return "" if value is None else str(value)


def _first(value: Any) -> Any:
    """The accuracy stands for all scores of a split."""
    return value.get("accuracy") if isinstance(value, dict) else value
