"""Runs `prepare` in forked processes, so that it can be killed hundreds of times without importing it as often.

On stdin come lines of two kinds: an order (a JSON object: source, store, endpoint_url, and
kill_step or kill_after_s, or 0) and, after the pid of
its process has been printed, `go`. When the process has ended, a JSON object says how: status, steps, result.
The tasks run one after the other in that process, without Ray; all else is prepare as it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tljobs.data import prepare as verb
from tljobs.specs import PrepareSpec
from tljobs.store import open_store

# What Python says before it touches the disk, be it for the store or for a temporary file of the store.
DISK_EVENTS = frozenset({"open", "os.link", "os.rename", "os.remove", "os.mkdir", "os.listdir", "os.scandir"})


def in_turn(tasks: Sequence[Any], work: Callable[[Any], Any], *_: Any) -> Iterator[tuple[int, Any]]:
    return ((number, work(task)) for number, task in enumerate(tasks))


def watch_disk(root: str, kill_step: int) -> list[str]:
    """Notes each step on the disk below `root`, and dies before the one of this number."""
    steps: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in DISK_EVENTS and any(str(argument).startswith(root) for argument in arguments[:2]):
            steps.append(event)
            if len(steps) == kill_step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return steps


def child(order: dict[str, Any], pipe: int) -> None:
    steps = watch_disk(order["store"], order["kill_step"])
    spec = PrepareSpec(source=order["source"], name="d", image_size=32, split="60/20/20", shard_images=64, workers=2)
    result = verb.prepare(spec, open_store(order["store"], order["endpoint_url"]))
    assert result is not None
    content = {"steps": len(steps), "result": result.model_dump(mode="json")}
    os.write(pipe, json.dumps(content).encode())


def main() -> None:
    verb._run_tasks = in_turn
    verb.ray_session = contextlib.nullcontext
    verb._cluster_cpus = lambda: 1
    for line in sys.stdin:
        order = json.loads(line)
        (wait_end, go_end), (read_end, write_end) = os.pipe(), os.pipe()
        pid = os.fork()
        if not pid:
            os.read(wait_end, 1)
            child(order, write_end)
            os._exit(0)
        os.close(write_end)
        print(pid, flush=True)
        sys.stdin.readline()
        os.write(go_end, b"g")
        if order["kill_after_s"]:
            time.sleep(order["kill_after_s"])
            os.kill(pid, signal.SIGKILL)
        with os.fdopen(read_end, "rb") as pipe:
            said = json.loads(pipe.read() or b"{}")
        _, status = os.waitpid(pid, 0)
        os.close(wait_end)
        os.close(go_end)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status), **said}), flush=True)


if __name__ == "__main__":
    main()
