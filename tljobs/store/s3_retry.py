"""How long a store on S3 is waited for. An error flows in; a pause and True, or False, flows out.

botocore repeats requests by itself (its `standard` mode): 5xx, throttling, resets, time-outs. Ours are the cases that
it leaves to us: a body that breaks off or comes damaged, the answer 409 to a conditional put, a client whose retry
quota is spent because many threads met the same outage, and an end in time (botocore counts attempts only).
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

CONNECT_TIMEOUT_S = 2
READ_TIMEOUT_S = 60
MAX_ATTEMPTS = 8  # botocore's standard mode doubles its pauses from 0.05 s: a server that restarts is waited for
PATIENCE_S = 10  # for a server that is away, even when botocore gives up at once
TOTAL_S = 150  # for one call, whatever happens: two answers that never come and what is left for a third
GARBLED_S = 1  # for an error answer that may have been cut
FIRST_PAUSE_S, MAX_PAUSE_S = 0.05, 1.0
STARTED = "tljobs_started_s"
TRANSIENT_STATUS = frozenset({429, 500, 502, 503, 504})
CONFLICT = 409


@dataclass(frozen=True)
class Limits:
    """The budget of one call. `attempts` bounds botocore's repetitions and ours of broken bodies and conflicts, each by
    itself; `patience_s` bounds ours of what botocore has given up; after `total_s` nothing is begun again."""

    connect_timeout_s: float = CONNECT_TIMEOUT_S
    read_timeout_s: float = READ_TIMEOUT_S
    attempts: int = MAX_ATTEMPTS
    patience_s: float = PATIENCE_S
    total_s: float = TOTAL_S


DEFAULT_LIMITS = Limits()


class Patience:
    """The budget of one call while it is spent."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._started_s = time.monotonic()
        self._attempts = 1

    def again(self, error: Exception) -> bool:
        """Pauses and returns True if it makes sense to try again after this error and the budget allows it."""
        if time.monotonic() - self._started_s >= self._allowed_s(error):
            return False
        time.sleep(min(MAX_PAUSE_S, FIRST_PAUSE_S * 2**self._attempts) * random.random())
        self._attempts += 1
        return True

    def _allowed_s(self, error: Exception) -> float:
        """An outage is waited for whatever the attempts: with its quota spent, botocore fails without a pause."""
        if is_broken_body(error) or status(error) == CONFLICT:
            return self._limits.total_s if self._attempts < self._limits.attempts else 0.0
        if is_garbled(error):
            return GARBLED_S
        return min(self._limits.patience_s, self._limits.total_s) if _is_outage(error) else 0.0


def is_broken_body(error: Exception) -> bool:
    """Whether an answer began well and then broke off or came damaged: botocore does not repeat those."""
    import botocore.exceptions as boto

    kinds = (boto.IncompleteReadError, boto.ResponseStreamingError, boto.FlexibleChecksumError)
    return isinstance(error, kinds)


def is_garbled(error: Exception) -> bool:
    """Whether an error answer lacks S3's own code: its body broke off, or what answers is no S3 server."""
    response = getattr(error, "response", None) or {}
    return bool(str(status(error)) == response.get("Error", {}).get("Code"))


def status(error: Exception) -> int:
    """The HTTP status of an error answer; 0 for what is no answer."""
    response = getattr(error, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def limit_time(client: Any, limits: Limits) -> None:
    """Makes the client's own repetitions end after `total_s`."""

    def note_start(params: dict[str, Any], **_: Any) -> None:
        params["context"][STARTED] = time.monotonic()

    def out_of_time(request_dict: dict[str, Any], **_: Any) -> bool | None:
        # The first answer other than None counts; False means: no other attempt.
        return False if time.monotonic() - request_dict["context"][STARTED] > limits.total_s else None

    client.meta.events.register("before-call.s3", note_start)
    client.meta.events.register_first("needs-retry.s3", out_of_time)


def _is_outage(error: Exception) -> bool:
    import botocore.exceptions as boto

    if isinstance(error, boto.SSLError):  # a wrong certificate stays wrong
        return False
    return isinstance(error, boto.ConnectionError | boto.HTTPClientError | OSError) or status(error) in TRANSIENT_STATUS
