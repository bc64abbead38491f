"""What tests have an isolated process do: crash, hang, grow, or say what it sees. The first byte says which."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from tljobs.data.formats import BadImage


def misbehave(data: bytes, **options: Any) -> tuple[dict[str, Any], bytes]:
    """`a` aborts, `s` reads address 0, `l` loops, `w` sleeps, `m` allocates without end, `e` raises, `b` is a bad
    image, `p` prints, `k` answers what is no answer, `v` gives modules and environment; anything else is echoed."""
    kind = data[:1]
    if kind == b"a":
        os.abort()
    if kind == b"s":
        import ctypes

        ctypes.string_at(0)
    if kind == b"l":
        while True:
            pass
    if kind == b"w":
        time.sleep(3600)
    if kind == b"m":
        kept = []
        while True:
            kept.append(bytearray(2**26))
    if kind == b"e":
        raise RuntimeError("no such plug-in")
    if kind == b"b":
        raise BadImage("corrupt", "as asked")
    if kind == b"p":
        print("a library talks", flush=True)
        os.write(1, b"and talks")
    if kind == b"k":
        os.write(next(fd for fd in range(3, 20) if _is_answers(fd)), b"\xff" * 64)
        time.sleep(3600)
    if kind == b"v":
        return {
            "modules": sorted({name.partition(".")[0] for name in sys.modules}),
            "environment": dict(os.environ),
        }, b""
    return {"pid": os.getpid(), "options": options}, data


def _is_answers(descriptor: int) -> bool:
    import fcntl

    try:
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    except OSError:
        return False
    return name.startswith("pipe:") and flags & os.O_ACCMODE == os.O_WRONLY
