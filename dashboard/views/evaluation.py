"""An evaluation of a run: scores with intervals, confusion matrix that opens its images, worst errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import streamlit as st

from dashboard import source
from dashboard.figures import confusion, gallery, scores
from dashboard.source import Address, Place
from dashboard.text import plain
from dashboard.views import messages
from dashboard.views.cards import card
from tljobs.records import EvaluationReport
from tljobs.runs import Run

WORST_ERRORS = 12
CELL_IMAGES = 9
THUMBNAIL_PX = 168


def section(at: Address, run: Run) -> None:
    """Draws the evaluations of a run, if it has any."""
    reports = source.evaluations(at, run.name)
    if not reports:
        return
    st.subheader("Evaluation")
    _evaluation(at, {report.evaluation: report for report in reversed(reports)})


@st.fragment
@messages.explained
def _evaluation(at: Address, reports: dict[str, EvaluationReport]) -> None:
    """A fragment: a click on a cell draws this part of the page again and leaves the rest alone."""
    names = list(reports)
    default = "val" if "val" in reports else names[0]
    name = st.segmented_control("Images of", names, default=default, required=True, format_func=plain, key="evaluation")
    report = reports[name or default]
    _scores(report)
    if report.confusion:  # several labels per image have none
        _confusion(at, report)
    _worst_errors(at, report)


def _scores(report: EvaluationReport) -> None:
    with st.container(horizontal=True, gap="small"):
        for score in scores.scores(report):
            card(score.title, score.value, score.interval)
    st.caption(f"{report.images} images of {plain(report.dataset)}, split {plain(report.split)}")
    share = st.column_config.NumberColumn(format="percent")
    columns: dict[str, Any] = dict.fromkeys(("precision", "recall", "f1"), share)
    columns["auroc"] = st.column_config.NumberColumn("AUROC", format="%.3f")
    columns["average_precision"] = st.column_config.NumberColumn("average precision", format="%.3f")
    with st.expander("Scores per class"):
        st.dataframe(
            scores.class_rows(report),
            key="classes",
            hide_index=True,
            column_config=columns,
            alt="Scores per class",
        )


def _confusion(at: Address, report: EvaluationReport) -> None:
    st.markdown("#### Confusion matrix")
    matrix = confusion.confusion(report)
    left, right = st.columns([3, 2], gap="large")
    with left:
        measure = st.segmented_control(
            "Show", get_args(confusion.Measure), default="counts", required=True, key="measure"
        )
        chart = confusion.confusion_chart(matrix, "by row" if measure == "by row" else "counts")
        key = f"confusion-{report.evaluation}"
        picked: Any = st.altair_chart(chart, key=key, on_select="rerun", width="content", alt="Confusion matrix")
        if matrix.left_out:
            st.caption(f"The {len(matrix.labels)} classes with most errors; {matrix.left_out} others are not shown.")
    with right:
        cells = picked.selection.get(confusion.SELECTION, [])
        if cells:
            _cell(at, report, int(cells[0]["true_index"]), int(cells[0]["predicted_index"]))
        else:
            st.caption("Click a cell to see its images.")


def _cell(at: Address, report: EvaluationReport, true_index: int, predicted_index: int) -> None:
    count = report.confusion[true_index][predicted_index]
    st.text(f"{report.classes[true_index]} predicted as {report.classes[predicted_index]}: {count} images")
    table = source.predictions(at, report)
    shown = gallery.images_of_cell(table, report.classes, true_index, predicted_index, CELL_IMAGES)
    _images(at, report, shown)


def _worst_errors(at: Address, report: EvaluationReport) -> None:
    st.markdown("#### Worst errors")
    shown = gallery.worst_errors(source.predictions(at, report), report.classes, WORST_ERRORS)
    if not shown:
        st.success("Every image of this evaluation was labelled correctly.", icon=":material/check_circle:")
        return
    st.caption("Wrongly labelled images, the highest loss first.")
    _images(at, report, shown)


@messages.explained
def _images(at: Address, report: EvaluationReport, shown: Sequence[gallery.Shown]) -> None:
    places = tuple(Place(each.shard, each.row) for each in shown)
    data = source.images(at, report.dataset, report.version, report.split, places)
    with st.container(horizontal=True, gap="medium"):
        for each, image in zip(shown, data, strict=True):
            with st.container(width=THUMBNAIL_PX, gap="xsmall"):
                alt = f"{each.label} predicted as {each.predicted}"
                st.image(image, width=THUMBNAIL_PX, alt=alt)
                st.text(f"{each.label} → {each.predicted} ({each.probability:.0%})")
                st.caption(plain(each.uri.rpartition("/")[2]))
