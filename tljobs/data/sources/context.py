"""What reading a source needs beside its name: the S3 endpoint, the store for what must be unpacked, the reporter."""

from __future__ import annotations

from dataclasses import dataclass

from tljobs.errors import UsageError
from tljobs.progress import SILENT, Reporter
from tljobs.store import Store


@dataclass(frozen=True, kw_only=True)
class Context:
    """`store` is where archives, and images that stand in tables, are unpacked to; None where that is not possible."""

    endpoint_url: str | None = None
    store: Store | None = None
    reporter: Reporter = SILENT

    def staging_store(self, what: str) -> Store:
        """The store; raises UsageError where there is none."""
        if self.store is None:
            raise UsageError("this source must be unpacked, which needs a store", what, "Use tljobs prepare")
        return self.store
