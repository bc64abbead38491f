"""The interface of every store: keys and bytes flow in, bytes and listings flow out."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tljobs.errors import InputRefused, NotFound

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import fs as pafs

READS_OF_WRONG_BYTES = 2  # bytes can be damaged on their way; if they come wrong twice, they are wrong in the store
Names = list[str]  # inside Store, `list` is the method


@dataclass(frozen=True)
class Entry:
    """An object as a listing shows it."""

    key: str
    size_bytes: int


class Store(ABC):
    """The interface. Keys are relative, with '/'. Instances are cheap, picklable and safe to use from threads.

    Every method raises Unreachable when the store does not answer, refuses us, or has no room left.
    """

    uri: str

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Raises NotFound when there is no such object."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> None:
        """Commits `data` under a new key. Raises NameTaken if the key holds other bytes."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Writes or overwrites an object that nothing refers to yet."""

    @abstractmethod
    def list(self, prefix: str) -> list[Entry]:
        """All objects below `prefix` (which ends with '/'), sorted by key."""

    @abstractmethod
    def folders(self, prefix: str) -> Names:
        """Names directly below `prefix` (which ends with '/') that have something below them, sorted."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Deletes an object; one that is not there is no error."""

    @abstractmethod
    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        """The pyarrow filesystem and this store's root in it."""

    @abstractmethod
    def open_input(self, key: str) -> pa.NativeFile:
        """A seekable file for columnar reading; one per thread. Raises NotFound when there is no such object."""

    def exists(self, key: str) -> bool:
        try:
            self.read(key)
        except NotFound:
            return False
        return True

    def read_verified(self, key: str, size_bytes: int, sha256: str) -> bytes:
        """The object's bytes, which are those of the size and hash. Wrong ones are read again once.

        Raises NotFound, and InputRefused whose hint says what differs.
        """
        for _ in range(READS_OF_WRONG_BYTES):
            data = self.read(key)
            if len(data) == size_bytes and hashlib.sha256(data).hexdigest() == sha256:
                return data
        differs = "its SHA-256 differs" if len(data) == size_bytes else f"{len(data)} bytes instead of {size_bytes}"
        raise InputRefused("damaged object in the store", f"{self.uri}/{key}", differs)
