"""Reading CSV, TSV, JSONL and Parquet: a file flows in, its columns flow out. Nothing here knows of labels.

Cells of CSV and TSV are text, so that 007 stays 007. Images that stand in a Parquet table as bytes are given out in
batches: all of them at once may not fit in memory.
"""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from tljobs.errors import InputRefused

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
HEADER_BYTES = 2**20
BATCH_ROWS = 64


class TableFile(ABC):
    """An open table. `first_row` is the number that a text editor, or people, give to the first row of data."""

    kind: str
    names: tuple[str, ...]
    rows: int
    first_row: int = 1

    @abstractmethod
    def column(self, name: str) -> Sequence[Any]:
        """The cells of a column: text, numbers, lists or None."""

    def image_bytes(self, name: str) -> Iterator[bytes] | None:
        """The images that stand in the column as bytes, row by row; None for a column of names of files."""
        return None


def is_table(name: str) -> bool:
    return name.casefold().endswith(SUFFIXES)


def open_table(file: Any, name: str) -> TableFile:
    """Opens a table, told by the end of its name; `file` is seekable and binary.

    Raises InputRefused when it is damaged or not what its name says, or has ragged rows.
    """
    suffix = name.casefold().rpartition(".")[2]
    if suffix == "parquet":
        return ParquetTable(file, name)
    return JsonLines(file, name) if suffix == "jsonl" else SeparatedText(file, name, "\t" if suffix == "tsv" else ",")


class SeparatedText(TableFile):
    """CSV or TSV with a header, in UTF-8. A CSV whose header has semicolons and no comma is separated by semicolons."""

    first_row = 2

    def __init__(self, file: Any, name: str, delimiter: str) -> None:
        self.kind = "TSV" if delimiter == "\t" else "CSV"
        header, delimiter = _header(file, name, delimiter)
        self.names = tuple(header)
        self._table = _read_text(file, name, delimiter, header)
        self.rows = self._table.num_rows

    def column(self, name: str) -> Sequence[Any]:
        cells: list[Any] = self._table.column(self.names.index(name)).to_pylist()
        return cells


class JsonLines(TableFile):
    """One JSON object per line. Read by Python: Arrow would turn text that looks like a date into one."""

    kind = "JSONL"

    def __init__(self, file: Any, name: str) -> None:
        self._rows = list(_json_rows(file, name))
        self.rows = len(self._rows)
        self.names = tuple(dict.fromkeys(key for row in self._rows for key in row))

    def column(self, name: str) -> Sequence[Any]:
        return [row.get(name) for row in self._rows]


class ParquetTable(TableFile):
    """Only the columns that are asked for are read."""

    kind = "Parquet"

    def __init__(self, file: Any, name: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._name = name
        try:
            self._file = pq.ParquetFile(file)
            self._schema = self._file.schema_arrow
        except (pa.ArrowException, OSError) as error:
            raise InputRefused("no readable Parquet file", name, str(error)[:200]) from error
        self.names = tuple(self._schema.names)
        self.rows = self._file.metadata.num_rows

    def column(self, name: str) -> Sequence[Any]:
        import pyarrow as pa

        kind = self._schema.field(name).type
        if isinstance(kind, pa.BaseExtensionType) or (pa.types.is_struct(kind) and not _is_image(kind)):
            raise InputRefused(f"column {name!r} is of type {kind}", self._name, "Store it as text, numbers or lists")
        try:
            cells: list[Any] = self._file.read([name], use_threads=False).column(0).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from error
        if _is_image(kind):
            return [(cell or {}).get("path") for cell in cells]
        names = _class_names(self._schema, name) if pa.types.is_integer(kind) else []
        if not names:
            return cells
        return [names[cell] if cell is not None and 0 <= cell < len(names) else cell for cell in cells]

    def image_bytes(self, name: str) -> Iterator[bytes] | None:
        import pyarrow as pa

        kind = self._schema.field(name).type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
            return (cell or b"" for cell in self._cells(name))
        if not _is_image(kind):
            return None
        first = next(self._cells(name), None)
        if not first or first["bytes"] is None:  # Hugging Face's struct for images that lie beside the table
            return None
        return ((cell or {}).get("bytes") or b"" for cell in self._cells(name))

    def _cells(self, name: str) -> Iterator[Any]:
        import pyarrow as pa

        try:
            for batch in self._file.iter_batches(BATCH_ROWS, columns=[name], use_threads=False):
                yield from batch.column(0).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> InputRefused:
        return InputRefused("damaged Parquet file", self._name, str(error)[:200])


def _is_image(kind: Any) -> bool:
    """Whether a column holds Hugging Face's struct of an image: its bytes, or its path."""
    import pyarrow as pa

    return pa.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}


def _header(file: Any, name: str, delimiter: str) -> tuple[list[str], str]:
    """The names of the columns, and what separates them."""
    start: bytes = file.read(HEADER_BYTES)
    file.seek(0)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start:
        raise InputRefused("the table is no UTF-8 text", name, "Save it as CSV in UTF-8")
    try:
        text = start.decode("utf-8-sig", "strict" if len(start) < HEADER_BYTES else "ignore")
    except UnicodeDecodeError as error:
        hint = f"Save it as CSV in UTF-8 (byte {error.start})"
        raise InputRefused("the table is no UTF-8 text", name, hint) from error
    first_line = next((line for line in text.splitlines() if line), "")
    if delimiter == "," and "," not in first_line and ";" in first_line:
        delimiter = ";"
    header = next((row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row), [])
    if not header:
        raise InputRefused("no images found", name, "The table is empty")
    return header, delimiter


def _read_text(file: Any, name: str, delimiter: str, header: Sequence[str]) -> Any:
    import pyarrow as pa
    from pyarrow import csv as pacsv

    ragged: list[Any] = []

    def note(row: Any) -> str:
        ragged.append(row)
        return "skip"

    try:
        table = pacsv.read_csv(
            file,
            read_options=pacsv.ReadOptions(use_threads=False),  # or rows have no numbers
            parse_options=pacsv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=note, ignore_empty_lines=True
            ),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False
            ),
        )
    except (pa.ArrowException, OSError) as error:
        raise InputRefused("the table cannot be read", name, str(error)[:200]) from error
    if ragged:
        first = ragged[0]
        what = f"{len(ragged)} rows with another number of fields than the header's {first.expected_columns}"
        hint = f"It has {first.actual_columns}: {first.text[:80]!r}. Put fields that hold the separator in quotes"
        raise InputRefused(what, f"row {first.number} of {name}", hint)
    return table


def _json_rows(file: Any, name: str) -> Iterator[dict[str, Any]]:
    with io.TextIOWrapper(file, encoding="utf-8-sig") as lines:
        number = 0
        try:
            for line in lines:
                number += 1
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("no object")
                if "\\ud" in line.casefold():
                    json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is no text: ValueError
                yield row
        except ValueError as error:  # JSONDecodeError and UnicodeDecodeError too
            hint = 'Each line is one object, such as {"file_name": "1.jpg", "label": "cat"}'
            raise InputRefused("a line that is no JSON object", f"line {number} of {name}", hint) from error


def _class_names(schema: Any, column: str) -> list[str]:
    """The names that Hugging Face's `datasets` keep for a column of class numbers, in the metadata of the schema."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = features[column].get("names") or []
    except (TypeError, KeyError, ValueError, AttributeError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []
