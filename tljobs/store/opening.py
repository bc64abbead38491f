"""From a store's URI to the store."""

from __future__ import annotations

import os
from pathlib import Path

from tljobs.errors import UsageError
from tljobs.store.base import Store
from tljobs.store.local import LocalStore
from tljobs.store.s3 import S3Store


def open_store(uri: str, endpoint_url: str | None = None) -> Store:
    """Opens a store by its URI: a folder, `file://…` or `s3://bucket/prefix`."""
    if uri.startswith("s3://"):
        bucket, _, prefix = uri.removeprefix("s3://").strip("/").partition("/")
        if not bucket:
            raise UsageError("a store on S3 needs a bucket", uri, "Use s3://bucket or s3://bucket/prefix")
        return S3Store(bucket, prefix, endpoint_url or os.environ.get("AWS_ENDPOINT_URL"))
    scheme, separator, rest = uri.partition("://")
    if separator and scheme != "file":
        raise UsageError("unknown kind of store", uri, "Use a folder or s3://bucket/prefix")
    return LocalStore(Path(rest if separator else uri).expanduser().absolute())
