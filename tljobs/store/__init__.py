"""A local folder or an S3 prefix behind one small interface: read, create once, put, list, delete.

`create` is the only way to commit: it never overwrites, and a write of ours whose reply was lost is recognised by
reading back (records carry a unique token). `put` is for bytes that nothing refers to yet. Bulk columns are read
through `open_input` (a pyarrow file). Errors of the two back ends come out as tljobs errors that name the store, what
was being done to it, the cause, and what to do.
"""

from tljobs.store.base import Entry, Names, Store
from tljobs.store.local import LocalStore
from tljobs.store.opening import open_store
from tljobs.store.s3 import PROBE_KEY, S3Store
from tljobs.store.s3_connect import s3_client, s3_filesystem
from tljobs.store.s3_retry import MAX_ATTEMPTS, Limits

__all__ = [
    "MAX_ATTEMPTS",
    "PROBE_KEY",
    "Entry",
    "Limits",
    "LocalStore",
    "Names",
    "S3Store",
    "Store",
    "open_store",
    "s3_client",
    "s3_filesystem",
]
