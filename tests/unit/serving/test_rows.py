"""Prediction rows as JSON lines, CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq
import pytest

from tljobs.errors import NotFound, UsageError
from tljobs.results import PredictionRow
from tljobs.serving.rows import write_rows
from tljobs.specs import PredictSpec

pytestmark = pytest.mark.timeout(30)

ROWS = [
    PredictionRow(input="b.jpg", status="ok", label="=SUM(A1)", score=0.75, top=[("=SUM(A1)", 0.75), ("käse", 0.25)]),
    PredictionRow(input="-a.jpg", status="truncated"),
]


def _spec(out: Path | None, format_: Literal["jsonl", "csv", "parquet"]) -> PredictSpec:
    return PredictSpec(model="m", inputs=("b.jpg",), out=str(out) if out else None, format=format_)


def test_json_lines_are_the_rows_in_order_and_statuses_are_counted() -> None:
    stream = io.StringIO()
    assert write_rows(iter(ROWS), _spec(None, "jsonl"), stream) == {"ok": 1, "truncated": 1}
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines[0] == {
        "input": "b.jpg",
        "status": "ok",
        "label": "=SUM(A1)",
        "score": 0.75,
        "unknown": False,
        "top": [["=SUM(A1)", 0.75], ["käse", 0.25]],
    }
    assert (lines[1]["label"], lines[1]["top"]) == (None, [])


def test_csv_cells_cannot_be_formulas() -> None:
    stream = io.StringIO()
    write_rows(iter(ROWS), _spec(None, "csv"), stream)
    first, second = csv.DictReader(io.StringIO(stream.getvalue()))
    assert (first["input"], first["label"], first["score"]) == ("b.jpg", "'=SUM(A1)", "0.75")
    assert json.loads(first["top"]) == [["=SUM(A1)", 0.75], ["käse", 0.25]]
    assert (second["input"], second["status"], second["label"]) == ("'-a.jpg", "truncated", "")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_csv_guards_every_start_of_a_formula(start: str) -> None:
    stream = io.StringIO(newline="")
    write_rows(iter([PredictionRow(input=f"{start}x", status="ok")]), _spec(None, "csv"), stream)
    assert list(csv.reader(io.StringIO(stream.getvalue(), newline="")))[1][0] == f"'{start}x"


def test_parquet_holds_the_same_rows(tmp_path: Path) -> None:
    out = tmp_path / "rows.parquet"
    write_rows(iter(ROWS), _spec(out, "parquet"), io.StringIO())
    rows = pq.read_table(out).to_pylist()
    assert [row["input"] for row in rows] == ["b.jpg", "-a.jpg"]
    assert rows[0]["top"] == [{"label": "=SUM(A1)", "score": 0.75}, {"label": "käse", "score": 0.25}]
    assert rows[1]["score"] is None


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    out.write_text("older\n")

    def failing() -> Iterator[PredictionRow]:
        yield ROWS[0]
        raise RuntimeError("stopped in the middle")

    with pytest.raises(RuntimeError):
        write_rows(failing(), _spec(out, "jsonl"), io.StringIO())
    assert out.read_text() == "older\n"
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_outputs_that_cannot_work_are_refused_before_the_first_row(tmp_path: Path) -> None:
    def untouched() -> Iterator[PredictionRow]:
        raise AssertionError("a row was taken")
        yield

    for spec, kind in (
        (_spec(None, "parquet"), UsageError),
        (_spec(tmp_path, "jsonl"), UsageError),
        (_spec(tmp_path / "missing" / "rows.csv", "csv"), NotFound),
        (PredictSpec(model="m", inputs=("a",), out="s3://bucket/rows.csv", format="csv"), UsageError),
    ):
        with pytest.raises(kind):
            write_rows(untouched(), spec, io.StringIO())
