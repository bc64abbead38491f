"""The table of runs: filters above, one row per run, a selected row opens the run."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from dashboard import source
from dashboard.figures.runs_table import RunRow, filter_rows, run_rows
from dashboard.views import messages
from tljobs.runs import Run

REFRESH_S = 10.0
COLUMNS = ["run", "status", "dataset", "backbone", "unfreeze", "learning_rate", "val", "test", "started", "minutes"]


@messages.explained
def page(open_run: Callable[[str], None]) -> None:
    """Draws the page. `open_run` leaves it for the page of a run."""
    st.title("Runs")
    at = source.address()
    runs = source.list_runs(at)
    if not runs:
        messages.empty_store(at.uri)
        return
    # Nothing polls the store unless something can change.
    refresh_s = REFRESH_S if any(run.status == "running" for run in runs) else None
    st.fragment(_table, run_every=refresh_s)(open_run)


@messages.explained
def _table(open_run: Callable[[str], None]) -> None:
    rows = _filtered(source.list_runs(source.address()))
    if not rows:
        st.info("No run matches these filters.")
        return
    event: Any = st.dataframe(
        [_cells(row) for row in rows],
        key="runs",
        on_select="rerun",
        selection_mode=["single-row", "single-cell"],
        hide_index=True,
        placeholder="–",
        column_order=COLUMNS,
        column_config=_column_config(),
        height=min(38 + 35 * len(rows), 720),
        alt="Table of runs",
    )
    st.caption(f"{len(rows)} runs, newest first. Select a row, or click a run's name, to open it.")
    selected = _selected(event, rows)
    if selected:
        open_run(selected)


def _filtered(runs: Sequence[Run]) -> list[RunRow]:
    rows = run_rows(runs, datetime.datetime.now(datetime.UTC))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        text = st.text_input("Search", key="search", placeholder="run, backbone, …", width=260) or ""
        statuses = st.multiselect("Status", sorted({row.status for row in rows}), key="status", width=300)
        datasets = st.multiselect("Dataset", sorted({row.dataset for row in rows}), key="dataset", width=300)
    return filter_rows(rows, statuses, datasets, text)


def _selected(event: Any, rows: Sequence[RunRow]) -> str | None:
    indices = [*event.selection.rows, *(row for row, column in event.selection.cells if column == "run")]
    return next((rows[index].run for index in indices if index < len(rows)), None)


def _cells(row: RunRow) -> dict[str, Any]:
    return {
        "run": row.run,
        "status": row.status,
        "dataset": row.dataset,
        "backbone": row.backbone,
        "unfreeze": row.unfreeze,
        "learning_rate": row.learning_rate,
        "val": row.val_accuracy,
        "test": row.test_accuracy,
        "started": row.started,
        "minutes": row.duration_s / 60,
    }


def _column_config() -> dict[str, Any]:
    column = st.column_config
    return {
        "run": column.TextColumn("Run", width=180),
        "status": column.TextColumn("Status"),
        "dataset": column.TextColumn("Dataset"),
        "backbone": column.TextColumn("Backbone"),
        "unfreeze": column.TextColumn("Unfreeze", width=80),
        "learning_rate": column.NumberColumn("Rate", format="%g"),
        "val": column.NumberColumn("Val acc.", format="percent"),
        "test": column.NumberColumn("Test acc.", format="percent"),
        "started": column.DatetimeColumn("Started (UTC)", format="YYYY-MM-DD HH:mm", timezone="UTC"),
        "minutes": column.NumberColumn("Duration (min)", format="%.1f"),
    }
