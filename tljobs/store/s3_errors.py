"""What a user is told when S3 refuses or fails: botocore's errors flow in, ours flow out, with a hint per cause."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import Any

from tljobs.errors import NotFound, TljobsError, Unreachable
from tljobs.store.s3_retry import CONFLICT, is_broken_body

PERMISSIONS = {
    "reading": "s3:GetObject and s3:ListBucket",  # without the latter, a missing object is 'denied' too
    "creating": "s3:PutObject",
    "writing": "s3:PutObject",
    "listing": "s3:ListBucket",
    "deleting": "s3:DeleteObject",
}
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
WRONG_KEYS = frozenset({"SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken", "AuthFailure"})
DENIED = frozenset({"AccessDenied", "403", "Forbidden", "AllAccessDisabled", "AccountProblem"})
SKEWED = frozenset({"RequestTimeTooSkewed", "RequestInTheFuture"})
OTHER_REGION = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})
NO_ROOM = frozenset({"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "507"})


def s3_error(error: Exception, doing: str, where: str, endpoint_url: str | None) -> TljobsError:
    """The error for the user. `doing` is one of the keys of PERMISSIONS."""
    import botocore.exceptions as boto
    from botocore.parsers import ResponseParserError

    if isinstance(error, boto.ClientError):
        return _answer(error.response, doing, where, endpoint_url or "AWS")
    if isinstance(error, ResponseParserError):
        hint = f"Check the endpoint {endpoint_url or 'of AWS'} ({_line(error)})"
        return Unreachable(f"what answers here is no S3 server while {doing}", where, hint)
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        hint = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use an instance profile"
        return Unreachable(f"no S3 credentials found while {doing}", where, hint)
    if isinstance(error, boto.CredentialRetrievalError | boto.TokenRetrievalError | boto.UnauthorizedSSOTokenError):
        return Unreachable(f"the credentials cannot be had while {doing}", where, f"Sign in again ({_line(error)})")
    if isinstance(error, boto.ParamValidationError):
        return Unreachable(f"no valid bucket or key while {doing}", where, f"Check the store's name ({_line(error)})")
    if isinstance(error, boto.ConnectTimeoutError | boto.ReadTimeoutError):
        hint = f"Check the network and the load of {endpoint_url or 'AWS'} ({type(error).__name__})"
        return Unreachable(f"the store does not answer in time while {doing}", where, hint)
    if isinstance(error, boto.SSLError):
        hint = f"Check its certificate, and http or https, of {endpoint_url or 'AWS'} ({_line(error)})"
        return Unreachable(f"the store has no trusted certificate while {doing}", where, hint)
    if is_broken_body(error):
        hint = f"Check the network and the endpoint {endpoint_url or 'of AWS'} ({type(error).__name__})"
        return Unreachable(f"what the store sends breaks off or is damaged while {doing}", where, hint)
    hint = f"Check the network and the endpoint {endpoint_url or 'of AWS'} ({type(error).__name__})"
    return Unreachable(f"the store cannot be reached while {doing}", where, hint)


def _answer(response: dict[str, Any], doing: str, where: str, endpoint: str) -> TljobsError:
    code = str(response.get("Error", {}).get("Code", ""))
    if code == "NoSuchKey":
        return NotFound("no such object in the store", where)
    what, hint = _cause(code, int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)), doing, endpoint)
    if code in SKEWED:
        hint = f"Set the clock{_offset(response)}: S3 refuses requests that are minutes off ({code})"
    return Unreachable(f"{what} while {doing}", where, hint)


def _cause(code: str, http_status: int, doing: str, endpoint: str) -> tuple[str, str]:
    """What and hint of an error answer."""
    if code == "404":
        return "what answers here is no S3 server", f"Check the endpoint {endpoint}"
    if code == "NoSuchBucket":
        return "there is no such bucket", "Create it, or check the endpoint and the name"
    if code in EXPIRED:
        return "the credentials have expired", f"Renew them: sign in again or fetch a new session token ({code})"
    if code in WRONG_KEYS:
        return "the store refuses these credentials", f"Check the access and secret key ({code})"
    if code in DENIED:
        return "the store denies access", f"These keys need the permission {PERMISSIONS[doing]} ({code})"
    if code in SKEWED:
        return "this machine's clock is wrong", ""
    if code in OTHER_REGION:
        return "the bucket is in another region", f"Set AWS_REGION to the bucket's region ({code})"
    if code in NO_ROOM:
        return "no space left in the store", f"Free some space or raise the quota ({code})"
    if http_status == CONFLICT:
        return "the store keeps answering 'conflict'", f"Try again later ({code})"
    if http_status in (429, 503):
        return "the store is overloaded", f"Try again later, or with fewer workers ({code}, endpoint {endpoint})"
    return f"the store answers {code or http_status}", f"Look into the server's log; endpoint {endpoint}"


def offset_s(response: dict[str, Any]) -> float | None:
    """This machine's clock minus the Date of an answer; None if there is none."""
    date = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return time.time() - parsedate_to_datetime(date).timestamp() if date else None


def _offset(response: dict[str, Any]) -> str:
    """How far this machine's clock is off, in words; empty if nobody knows."""
    offset = offset_s(response)
    if offset is None:
        return ""
    return f", it is {abs(offset):.0f} s {'ahead of' if offset > 0 else 'behind'} the server's"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
