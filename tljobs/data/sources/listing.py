"""Which kind of source is it? A name flows in, a Listing flows out; the kinds themselves are in their own modules."""

from __future__ import annotations

import posixpath

from tljobs.data.sources.archives import SUFFIXES, is_archive, list_archive
from tljobs.data.sources.context import Context
from tljobs.data.sources.files import file_or_folder, list_folder, source_uri
from tljobs.data.sources.folders import arrange
from tljobs.data.sources.model import DEFAULT_OPTIONS, Found, Listing, SourceOptions, Tree
from tljobs.data.sources.table_files import SUFFIXES as TABLE_SUFFIXES
from tljobs.data.sources.table_files import is_table
from tljobs.data.sources.tables import list_table, list_tables, tables_in
from tljobs.data.sources.tfrecord import is_tfrecord, list_tfrecords, tfrecords_in
from tljobs.errors import UsageError
from tljobs.progress import SILENT, Reporter
from tljobs.store import Store


def list_source(
    source: str,
    options: SourceOptions = DEFAULT_OPTIONS,
    endpoint_url: str | None = None,
    *,
    store: Store | None = None,
    reporter: Reporter = SILENT,
) -> Listing:
    """Lists the labelled images of a source of any kind.

    Args:
        source: a folder, a table, TFRecord files or an archive: a path, `file://…` or `s3://bucket/prefix`.
        options: how to read it; what is not set is found out.
        endpoint_url: of an S3-compatible server; None is AWS.
        store: where archives, and images that stand in tables, are unpacked to.
        reporter: hears what takes long.

    Raises:
        NotFound: no such file or folder. UsageError: an option does not fit the source, or the class names are not
        those of `options.classes`. InputRefused: no images, a single class, or a damaged or refused file.
        Unreachable: the S3 server or the store cannot be used.
    """
    uri = source_uri(source)
    context = Context(endpoint_url=endpoint_url, store=store, reporter=reporter)
    if file_or_folder(uri, endpoint_url) == "folder":
        return _list_tree(list_folder(uri, endpoint_url), options, context)
    if is_archive(uri):
        return _list_tree(list_archive(uri, context), options, context)
    file = Found(path=posixpath.basename(uri), uri=uri, address=uri, size_bytes=0)
    if is_table(uri):
        return list_table(file, options, context)
    if is_tfrecord(uri):
        return list_tfrecords([file], Tree(source=uri, files=(file,)), options, context)
    endings = ", ".join([*TABLE_SUFFIXES, ".tfrecord", *SUFFIXES])
    raise UsageError("not a folder, a table, a TFRecord file or an archive", uri, f"Files end in {endings}")


def _list_tree(tree: Tree, options: SourceOptions, context: Context) -> Listing:
    tables = tables_in(tree, options, context)
    if tables:
        return list_tables(tables, tree, options, context)
    records = tfrecords_in(tree)
    return list_tfrecords(records, tree, options, context) if records else arrange(tree, options)
