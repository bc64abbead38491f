"""A model in a process of its own: image bytes in, prediction rows out. Importing this imports no heavy library.

`python -m tljobs.serving.child FOLDER` opens the exported model in FOLDER and answers requests on stdin, each 4 bytes
of length (big-endian) and an image file, with one line of JSON on stdout: first `{}` when the model is open, then a
PredictionRow per request, or `{"error": ...}`. It ends with its stdin. `PredictChild` is the other side.
"""

from __future__ import annotations

import contextlib
import json
import os
import site
import struct
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from tljobs.errors import TljobsError
from tljobs.results import PredictionRow

START_TIMEOUT_S = 180.0  # importing TensorFlow takes 4 to 20 s, more on a loaded machine
CLOSE_TIMEOUT_S = 5.0
LOG_FILE = "stderr.log"
MAX_LAST_WORDS = 200
MAX_REQUEST_BYTES = 256 * 2**20
MAX_ADDRESS_SPACE_BYTES = 32 * 2**30  # TensorFlow on CPUs takes 2.3 GB of it; the rest is for models
TOP_K = 5
LENGTH = struct.Struct(">I")
KINDS = {kind.__name__: kind for kind in TljobsError.__subclasses__()}

# Passed on to the child; everything else of the environment, secrets among it, is not.
ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
FIXED_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "-1",  # a single image needs no GPU, and TensorFlow would take all of its memory
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "PYTHONUNBUFFERED": "1",
}


class PredictChild:
    """The model of an exported folder in a child process that is started at the first call and again after a death.

    Safe to share between threads: calls wait for each other. Use it as a context manager, or call `close`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._home: tempfile.TemporaryDirectory[str] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the child, None while there is none."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Starts the child unless it runs, and waits until its model is open.

        Raises what opening the model raises (NotFound, InputRefused), or TljobsError when the child dies or is not
        ready after START_TIMEOUT_S.
        """
        with self._lock:
            self._started()

    def predict(self, data: bytes, timeout_s: float) -> PredictionRow:
        """The row for an image file's bytes; `input` is empty. A bad image gives its reason code as `status`.

        Raises TljobsError when the child dies or has no answer after `timeout_s` (without the time to start it): it
        is ended, and the next call starts another one.
        """
        if len(data) > MAX_REQUEST_BYTES:
            return PredictionRow(input="", status="too_large")
        with self._lock:
            answer = self._exchange(self._started(), LENGTH.pack(len(data)) + data, timeout_s)
            return PredictionRow.model_validate(answer)

    def close(self) -> None:
        """Ends the child, if there is one."""
        with self._lock:
            self._end()

    def __enter__(self) -> PredictChild:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process and self._process.poll() is None:
            return self._process
        self._end()
        # A home of its own: the user's holds credentials, and Keras writes its settings there.
        self._home = tempfile.TemporaryDirectory(prefix="tljobs-child-")
        with Path(self._home.name, LOG_FILE).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tljobs.serving.child", str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self._home.name,
                env=_environment(self._home.name),
            )
        self._process = process
        try:
            self._exchange(process, b"", START_TIMEOUT_S)
        except BaseException:
            self._end()
            raise
        return process

    def _exchange(self, process: subprocess.Popen[bytes], request: bytes, timeout_s: float) -> dict[str, Any]:
        """Sends `request` and waits for one line, in a thread that ends with the child: pipes have no time limit."""
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(_send_and_receive, process, request)
            try:
                line = waiting.result(timeout_s)
            except TimeoutError:
                self._end()
                raise TljobsError(
                    f"the model has not answered within {timeout_s:g} s", str(self._folder), "Try again"
                ) from None
            except BaseException:
                self._end()
                raise
        if not line.endswith(b"\n"):
            last_words = self._last_words()
            self._end()
            raise TljobsError(
                f"the model's process has died (exit status {process.returncode})", str(self._folder), last_words
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise _error(answer["error"])
        return answer

    def _last_words(self) -> str:
        log = Path(self._home.name, LOG_FILE).read_text(errors="replace") if self._home else ""
        return log.strip().rpartition("\n")[2][:MAX_LAST_WORDS]

    def _end(self) -> None:
        process, self._process = self._process, None
        if process:
            with contextlib.suppress(OSError):
                process.kill()
            process.wait(CLOSE_TIMEOUT_S)
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
        if self._home:
            self._home.cleanup()
            self._home = None


def _send_and_receive(process: subprocess.Popen[bytes], request: bytes) -> bytes:
    """One line from the child, without its end when it has died."""
    assert process.stdin and process.stdout
    try:
        process.stdin.write(request)
        process.stdin.flush()
    except BrokenPipeError:
        return b""
    return process.stdout.readline()


def _environment(home: str) -> dict[str, str]:
    passed = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    return {**passed, **FIXED_ENVIRONMENT, "HOME": home, "PYTHONUSERBASE": site.getuserbase()}


def _error(content: dict[str, str]) -> TljobsError:
    return KINDS.get(content["kind"], TljobsError)(content["what"], content["where"], content["hint"])


# ------------------------------------------------------------------------------------------------------- the child


def main(folder: str) -> int:
    """Serves the model in `folder` until stdin ends; returns the exit status."""
    requests, answers = _take_pipes()
    _limit_process()
    try:
        from tljobs.serving.bundle import open_folder

        bundle = open_folder(Path(folder))
    except TljobsError as error:
        _answer(answers, {"error": _error_content(error)})
        return error.exit_code
    _answer(answers, {})
    while header := requests.read(LENGTH.size):
        data = requests.read(LENGTH.unpack(header)[0])
        _answer(answers, _predict(bundle, data))
    return 0


def _predict(bundle: Any, data: bytes) -> dict[str, Any]:
    from tljobs.data.decode import BadImage

    try:
        probabilities = bundle.probabilities(bundle.pixels(data)[None])[0]
    except BadImage as error:
        return PredictionRow(input="", status=error.reason).model_dump()
    except TljobsError as error:
        return {"error": _error_content(error)}
    row: PredictionRow = bundle.row("", probabilities, TOP_K)
    return row.model_dump()


def _error_content(error: TljobsError) -> dict[str, str]:
    return {"kind": type(error).__name__, "what": error.what, "where": error.where, "hint": error.hint}


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Requests and answers on pipes of their own: whatever a library prints goes to stderr."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return requests, answers


def _limit_process() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_SPACE_BYTES, MAX_ADDRESS_SPACE_BYTES))


def _answer(answers: BinaryIO, content: dict[str, Any]) -> None:
    answers.write(json.dumps(content).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
