"""One run: status and scores, learning curves, evaluations, plan, configuration, history."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, get_args

import streamlit as st

from dashboard import source
from dashboard.figures import curves, history, scores
from dashboard.figures.runs_table import duration_s, duration_text
from dashboard.source import Address
from dashboard.text import plain
from dashboard.views import evaluation, messages
from dashboard.views.cards import card
from dashboard.views.choose import choose
from tljobs.records import EpochRow, StepRow
from tljobs.runs import Run

REFRESH_S = 5.0
STATUS_COLOURS: dict[str, Any] = {
    "finished": "green",
    "running": "blue",
    "failed": "red",
    "interrupted": "orange",
    "stopped": "gray",
    "created": "gray",
}
ENDINGS = {
    "created": "No attempt has started yet.",
    "interrupted": "Its process ended without a word. It can go on from its last checkpoint:",
    "stopped": "It was stopped on request. It can go on from its last checkpoint:",
}


@messages.explained
def page(open_predict: Callable[[str], None]) -> None:
    """Draws the page of the run that the URL names. `open_predict` leaves it for predictions with its model."""
    at = source.address()
    chooser = st.container(horizontal=True, vertical_alignment="bottom")
    with chooser:
        name = choose("Run", [run.name for run in source.list_runs(at)], "name")
    if name is None:
        messages.empty_store(at.uri)
        return
    run = source.open_run(at, name)
    if run.status == "finished" and chooser.button("Predict with this model", key="predict"):
        open_predict(name)
    # The run's own part refreshes itself only while there is something to come.
    st.fragment(_progress, run_every=REFRESH_S if run.status == "running" else None)(at, name, run.status)
    evaluation.section(at, run)
    _records(run)


@messages.explained
def _progress(at: Address, name: str, drawn_status: str) -> None:
    """Header and curves. When the status is no longer the one the page was drawn for, the page is drawn again."""
    run = source.open_run(at, name)
    if run.status != drawn_status:
        st.rerun()
    steps, epochs = source.metrics(at, run)
    _header(run)
    if run.status == "running":
        state = history.progress(run, steps)
        st.progress(state.share or 0.0, text=plain(state.text))
    _ending(run)
    st.subheader("Learning curves")
    if steps or epochs:
        _curves(run, steps, epochs)
    else:
        st.caption("Nothing measured yet.")


def _ending(run: Run) -> None:
    """Why a run is neither running nor finished, and how it goes on."""
    if run.status == "failed":
        messages.failure(*(str(run.failure.get(part, "")) for part in ("what", "where", "hint")))
    if run.status in ENDINGS:
        st.info(ENDINGS[run.status])
    if run.status in ("interrupted", "stopped"):
        st.code(f"tljobs runs resume {run.name}", language=None)


def _curves(run: Run, steps: Sequence[StepRow], epochs: Sequence[EpochRow]) -> None:
    # Before the first epoch has ended there are only steps to see.
    default: curves.Axis = "epoch" if epochs else "step"
    axis = st.segmented_control("By", get_args(curves.Axis), default=default, required=True, key=f"by-{default}")
    monitor = str(run.record.spec.get("monitor", "val_accuracy"))
    lines = curves.learning_curves(steps, epochs, run.events, monitor, "step" if axis == "step" else "epoch")
    left, right = st.columns(2, gap="medium")
    left.altair_chart(curves.loss_chart(lines), key="loss", alt="Loss of training and validation images")
    right.altair_chart(curves.accuracy_chart(lines), key="accuracy", alt="Accuracy of training and validation images")


def _header(run: Run) -> None:
    record = run.record
    st.title(plain(run.name), anchor=False)
    with st.container(horizontal=True, gap="small"):
        st.badge(run.status, color=STATUS_COLOURS.get(run.status, "gray"))
        st.badge(plain(f"{record.dataset}@{record.version}"), color="gray")
        st.badge(plain(str(record.spec.get("backbone", ""))), color="gray")
        if record.search:
            st.badge(plain(f"search {record.search}"), color="gray")
    with st.container(horizontal=True, gap="small"):
        for split, values in run.scores.items():
            score = scores.accuracy_text(values)
            if score:
                card(f"{split.capitalize()} accuracy", score.value, score.interval)
        now = datetime.datetime.now(datetime.UTC)
        card("Duration", duration_text(duration_s(run, now)), f"attempts: {run.attempt}")


def _records(run: Run) -> None:
    st.subheader("Plan")
    if run.plan:
        st.dataframe(
            history.plan_rows(run), key="plan", hide_index=True, column_config=_plan_columns(), alt="Phases of the run"
        )
    else:
        st.caption("No phase has begun yet.")
    left, right = st.columns(2, gap="medium")
    with left:
        st.subheader("History")
        st.dataframe(
            [asdict(row) for row in history.event_rows(run.events)],
            key="history",
            hide_index=True,
            column_config={"time": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm:ss", timezone="UTC")},
            alt="History of the run",
        )
    with right:
        st.subheader("Configuration")
        rows = history.setting_rows(run.record.spec)
        st.dataframe(rows, key="configuration", hide_index=True, alt="Configuration of the run")


def _plan_columns() -> dict[str, Any]:
    column = st.column_config
    return {
        "name": "phase",
        "learning_rate": column.NumberColumn("learning rate", format="%g"),
        "trainable_parameters": column.NumberColumn("trainable parameters", format="localized"),
        "frozen_parameters": column.NumberColumn("frozen parameters", format="localized"),
    }
