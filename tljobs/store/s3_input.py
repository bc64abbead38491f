"""Reading columns from S3 through Arrow, without letting a fault of the network end a job.

A key flows in, a seekable file flows out. Arrow reads; when it fails, boto3 asks for one byte of the same object: that
waits for a store that is away, and says in the usual words what is wrong with one that refuses. If the byte comes, the
fault has passed, and the read is made again.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tljobs.errors import TljobsError
from tljobs.store.s3_retry import Limits

if TYPE_CHECKING:
    import pyarrow as pa


class S3Input(io.RawIOBase):
    """A file for `pa.PythonFile`: read, seek, tell. Not for several threads at a time.

    Args:
        open_file: opens the object through Arrow.
        ask: asks for a byte of it; raises our errors.
        give_up: makes the error for an object that answers but cannot be read.
        limits: how often and for how long a read is made again.
    """

    def __init__(
        self,
        open_file: Callable[[], pa.NativeFile],
        ask: Callable[[], None],
        give_up: Callable[[Exception], TljobsError],
        limits: Limits,
    ) -> None:
        self._open_file, self._ask, self._give_up, self._limits = open_file, ask, give_up, limits
        self._file: Any = None
        self._position = 0
        self._size_bytes = self._again_if_it_fails(lambda file: int(file.size()))

    def read(self, size: int = -1) -> Any:
        """The next bytes as an Arrow buffer, without a copy; fewer than `size` only at the end."""
        left = max(0, self._size_bytes - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        if not wanted:
            return b""
        data = self._again_if_it_fails(lambda file: _read_exactly(file, self._position, wanted))
        self._position += wanted
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()

    def _again_if_it_fails(self, read: Callable[[Any], Any]) -> Any:
        started_s, attempt = time.monotonic(), 1
        while True:
            try:
                if self._file is None:
                    self._file = self._open_file()
                return read(self._file)
            except OSError as error:
                # The file goes with its connection; what is not there is told by the question.
                self._file = None
                self._ask()
                if attempt >= self._limits.attempts or time.monotonic() - started_s > self._limits.total_s:
                    raise self._give_up(error) from error
                attempt += 1


def _read_exactly(file: Any, position: int, size_bytes: int) -> Any:
    file.seek(position)
    data = file.read_buffer(size_bytes)
    if data.size != size_bytes:
        raise OSError(f"{data.size} bytes came instead of {size_bytes}")
    return data
