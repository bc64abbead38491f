"""From whatever holds labelled images to one list of labelled files.

In: a folder of class folders, a table, TFRecord files, or an archive of one of these, local or on S3. Out: a Listing.
`list_source` finds out which it is; `read_file` opens what it found, in any process.

    listing.py   which kind of source is it
    files.py     listing folders and opening files, local and S3
    folders.py   class folders: the rules
    tables.py    CSV, TSV, JSONL, Parquet (table_files.py reads them, columns.py and labels.py are the rules)
    tfrecord.py  TFRecord files (example.py reads their records)
    archives.py  tar and zip, unpacked once into the store (staging.py)
    reading.py   addresses, and the bytes behind them
"""

from tljobs.data.sources.files import source_uri
from tljobs.data.sources.folders import arrange
from tljobs.data.sources.listing import list_source
from tljobs.data.sources.model import Found, Listing, SourceFile, SourceOptions, Tree
from tljobs.data.sources.reading import read_file

__all__ = [
    "Found",
    "Listing",
    "SourceFile",
    "SourceOptions",
    "Tree",
    "arrange",
    "list_source",
    "read_file",
    "source_uri",
]
