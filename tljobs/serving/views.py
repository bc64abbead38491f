"""Foreign image files into what a network sees, decoded in processes of their own: see tljobs.data.isolate.

A single image pays 0.3 s for the start of its process, once; the network takes longer to open. Code that calls
`ModelBundle.pixels` itself, such as the dashboard's child process and the script of an exported model, decodes in its
own process.
"""

from __future__ import annotations

import os
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tljobs.data.decode import DEFAULT_MAX_PIXELS
from tljobs.data.formats import BadImage
from tljobs.data.isolate import Isolated, decode_limits

FUNCTION = "tljobs.data.foreign:network_view"


class IsolatedViews:
    """Decoding processes, at most one per CPU, started when they are used. Safe to share between threads.

    Args:
        options: those of tljobs.data.foreign.network_view.
        images: how many images will come at most.
    """

    def __init__(self, options: dict[str, Any], images: int) -> None:
        self._options = options
        self._all = [
            Isolated(FUNCTION, decode_limits(DEFAULT_MAX_PIXELS))
            for _ in range(max(1, min(images, len(os.sched_getaffinity(0)))))
        ]
        self._free: SimpleQueue[Isolated] = SimpleQueue()
        for each in self._all:
            self._free.put(each)

    def view(self, data: bytes) -> NDArray[np.uint8]:
        """uint8 RGB (s, s, 3), s being the option `image_size`. Raises BadImage."""
        isolated = self._free.get()
        try:
            body = isolated.call(data, self._options).body
        finally:
            self._free.put(isolated)
        size = self._options["image_size"]
        if len(body) != size * size * 3:
            raise BadImage("decoder_crash", "no answer of ours")
        return np.frombuffer(body, np.uint8).reshape(size, size, 3)

    def __enter__(self) -> IsolatedViews:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._all:
            each.close()
