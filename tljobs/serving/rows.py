"""Prediction rows into a file or stream: JSON lines, CSV or Parquet. Rows are taken one by one and never all held."""

from __future__ import annotations

import csv
import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from tljobs.errors import NotFound, Unreachable, UsageError
from tljobs.results import PredictionRow
from tljobs.serving.lookahead import chunks
from tljobs.specs import PredictSpec

CSV_COLUMNS = ("input", "status", "label", "score", "unknown", "top")
# A spreadsheet takes a cell that begins so for a formula; the apostrophe makes it text (OWASP, "CSV Injection").
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
PARQUET_GROUP_ROWS = 4096


def check_output(spec: PredictSpec) -> None:
    """Raises UsageError or NotFound when the rows could not be written as asked."""
    if spec.out is None:
        if spec.format == "parquet":
            raise UsageError("Parquet needs a file", "--format parquet", "Add --out FILE.parquet")
        return
    if "://" in spec.out:
        raise UsageError("predictions are written to a local file", spec.out, "Write it here and copy it")
    if Path(spec.out).is_dir():
        raise UsageError("the output is a folder", spec.out, "Name a file")
    if not Path(spec.out).absolute().parent.is_dir():
        raise NotFound("no such folder for the output", str(Path(spec.out).parent))


def write_rows(rows: Iterator[PredictionRow], spec: PredictSpec, stream: TextIO) -> dict[str, int]:
    """Writes all rows to `spec.out`, or to `stream` without one. Returns how many rows have each status.

    A file appears, or replaces an older one, when it is complete.
    """
    check_output(spec)
    counts: Counter[str] = Counter()
    counted = _counted(rows, counts)
    if spec.out is None:
        _TEXT_WRITERS[spec.format](counted, stream)
    else:
        _write_file(counted, spec.format, Path(spec.out))
    return dict(counts)


def _counted(rows: Iterator[PredictionRow], counts: Counter[str]) -> Iterator[PredictionRow]:
    for row in rows:
        counts[row.status] += 1
        yield row


def _write_file(rows: Iterator[PredictionRow], format_: str, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        if format_ == "parquet":
            _write_parquet(rows, temporary)
        else:
            with temporary.open("x", encoding="utf-8", newline="") as stream:
                _TEXT_WRITERS[format_](rows, stream)
        temporary.replace(path)
    except OSError as error:
        raise Unreachable("the predictions cannot be written", str(path), error.strerror or str(error)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_jsonl(rows: Iterator[PredictionRow], stream: TextIO) -> None:
    for row in rows:
        stream.write(row.model_dump_json() + "\n")


def _write_csv(rows: Iterator[PredictionRow], stream: TextIO) -> None:
    writer = csv.writer(stream)  # RFC 4180 line ends; with others a carriage return in a name would go unquoted
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        top = json.dumps(row.top, ensure_ascii=False) if row.top else ""
        cells = (row.input, row.status, row.label, row.score, row.unknown, top)
        writer.writerow([_safe_cell(cell) for cell in cells])


def _safe_cell(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_STARTS) else cell


def _write_parquet(rows: Iterator[PredictionRow], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("input", pa.string()),
            ("status", pa.string()),
            ("label", pa.string()),
            ("score", pa.float64()),
            ("unknown", pa.bool_()),
            ("top", pa.list_(pa.struct([("label", pa.string()), ("score", pa.float64())]))),
        ]
    )
    with pq.ParquetWriter(path, schema) as writer:
        for group in chunks(rows, PARQUET_GROUP_ROWS):
            content = [
                {**row.model_dump(), "top": [{"label": label, "score": score} for label, score in row.top]}
                for row in group
            ]
            writer.write_table(pa.Table.from_pylist(content, schema=schema))


_TEXT_WRITERS: dict[str, Callable[[Iterator[PredictionRow], TextIO], None]] = {
    "jsonl": _write_jsonl,
    "csv": _write_csv,
}
