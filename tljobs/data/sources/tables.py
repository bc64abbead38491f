"""Tables of images: a file with a row per image flows in, a Listing flows out.

The image column holds paths, URIs, or the images themselves (Parquet); the last are put into the store once, where all
processes can read them one by one.
"""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Sequence
from typing import Any

from tljobs.data.sources.columns import TABLE_NAMES, Columns, choose_columns, has_usual_columns
from tljobs.data.sources.context import Context
from tljobs.data.sources.entries import Entries, listing_of
from tljobs.data.sources.folders import SPLIT_NAMES, is_hidden, split_folders_of
from tljobs.data.sources.labels import Where, cell_text, rows_named
from tljobs.data.sources.lookup import find_images, find_in_archive
from tljobs.data.sources.model import Found, Listing, SourceOptions, Tree, sample
from tljobs.data.sources.reading import open_input
from tljobs.data.sources.staging import stage_images
from tljobs.data.sources.table_files import TableFile, is_table, open_table
from tljobs.errors import InputRefused, UsageError
from tljobs.records import Split

METADATA_NAMES = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet")


def list_table(file: Found, options: SourceOptions, context: Context) -> Listing:
    """The images of one table; see `list_source` for the errors."""
    tree = Tree(source=file.uri, files=(file,))
    return _listing([(file, None)], tree, f"table {file.uri}", options, context)


def tables_in(tree: Tree, options: SourceOptions, context: Context) -> list[tuple[Found, Split | None]]:
    """The tables that label the files of a folder: a `metadata.csv` (.tsv, .jsonl, .parquet) directly in it, or one in
    each of its folders train, val and test; in an archive also a single table of another name.

    A table without the usual columns is no such table, unless an option asks for columns.
    """
    visible = [file for file in tree.files if is_table(file.path) and not is_hidden(file.path)]
    top = [file for file in visible if "/" not in file.path]
    chosen: list[tuple[Found, Split | None]] = [(f, None) for f in top if f.path.casefold() in METADATA_NAMES]
    if not chosen:
        below = [
            f for f in visible if f.path.count("/") == 1 and f.path.rpartition("/")[2].casefold() in METADATA_NAMES
        ]
        splits = split_folders_of({file.path.split("/")[0] for file in tree.files if "/" in file.path})
        chosen = [(f, splits[f.path.split("/")[0]]) for f in below if f.path.split("/")[0] in splits]
    if not chosen and len(top) == 1 and (tree.sealed or options.names_columns):
        chosen = [(top[0], None)]
    if len({split for _, split in chosen}) < len(chosen):
        raise UsageError("two tables for the same images", sample([f.path for f, _ in chosen], 5), "Keep one of them")
    if options.names_columns:
        return chosen
    usual = [has_usual_columns(_open(file, context).names, options) for file, _ in chosen]
    if any(usual) and not all(usual):
        raise InputRefused("tables with different columns", sample([file.uri for file, _ in chosen], 3))
    return chosen if all(usual) else []


def list_tables(
    tables: Sequence[tuple[Found, Split | None]], tree: Tree, options: SourceOptions, context: Context
) -> Listing:
    """The images of the tables that `tables_in` found in `tree`."""
    kind = f"folder with {sample([file.path for file, _ in tables], 3)}"
    return _listing(tables, tree, kind, options, context)


def _listing(
    tables: Sequence[tuple[Found, Split | None]], tree: Tree, kind: str, options: SourceOptions, context: Context
) -> Listing:
    opened = [_open(file, context) for file, _ in tables]
    chosen = [
        choose_columns(table.names, options, TABLE_NAMES, file.uri)
        for table, (file, _) in zip(opened, tables, strict=True)
    ]
    columns = chosen[0]
    if any(
        (other.image, other.labels, other.split) != (columns.image, columns.labels, columns.split) for other in chosen
    ):
        raise InputRefused("tables with different columns", sample([file.uri for file, _ in tables], 3))
    starts = [sum(table.rows for table in opened[:number]) for number in range(len(opened))]

    def where(row: int) -> str:
        number = max(n for n, start in enumerate(starts) if start <= row)
        return f"row {row - starts[number] + opened[number].first_row} of {tables[number][0].uri}"

    images: list[Found] = []
    for table, (file, _), start in zip(opened, tables, starts, strict=True):
        images += _images(table, file, tree, columns, functools.partial(_shifted, where, start), context)
    own = {file.path for file, _ in tables} | {image.path for image in images}
    given = [split for table, (_, split) in zip(opened, tables, strict=True) for _ in range(table.rows)]
    return listing_of(
        Entries(
            source=tree.source,
            kind=f"{kind} ({opened[0].kind}), {len(images)} rows",
            columns=columns,
            images=images,
            labels={name: _cells(opened, name) for name in columns.labels},
            splits=_cells(opened, columns.split) if columns.split else None,
            groups=_cells(opened, columns.group) if columns.group else None,
            given_splits=given if any(given) else _splits_of_folders(images),
            where=where,
            ignored=[file.path for file in tree.files if file.path not in own] + list(tree.unusable),
        ),
        options,
    )


def _shifted(where: Where, start: int, row: int) -> str:
    return where(start + row)


def _open(file: Found, context: Context) -> TableFile:
    try:
        return open_table(open_input(file.address, context.endpoint_url), file.uri)
    except OSError as error:
        raise InputRefused("the table cannot be read", file.uri, str(error)[:200]) from error


def _cells(tables: Sequence[TableFile], name: str) -> list[Any]:
    return [cell for table in tables for cell in table.column(name)]


def _images(table: TableFile, file: Found, tree: Tree, columns: Columns, where: Where, context: Context) -> list[Found]:
    batches = table.image_bytes(columns.image)
    if batches is not None:
        return stage_images(batches, file, columns.image, context)
    texts = [cell_text(cell) for cell in table.column(columns.image)]
    empty = [row for row, text in enumerate(texts) if not text.strip()]
    if empty:
        raise InputRefused(f"{len(empty)} rows without an image in column {columns.image!r}", rows_named(empty, where))
    return _named(texts, file, tree, where, context)


def _named(texts: Sequence[str], file: Found, tree: Tree, where: Where, context: Context) -> list[Found]:
    if tree.sealed:
        return find_in_archive(texts, posixpath.dirname(file.path), tree, where)
    root = file.uri.removesuffix(f"/{file.path}")
    return find_images(texts, posixpath.dirname(file.uri), root, where, context.endpoint_url)


def _splits_of_folders(images: Sequence[Found]) -> list[Split | None]:
    """Where the paths in a table all start with train, val or test, these are the splits."""
    tops = {image.path.split("/")[0] if "/" in image.path else "" for image in images}
    splits = split_folders_of(tops - {""}) if "" not in tops else {}
    if not splits or not all(top.casefold() in SPLIT_NAMES for top in tops):
        return [None] * len(images)
    return [splits[image.path.split("/")[0]] for image in images]
