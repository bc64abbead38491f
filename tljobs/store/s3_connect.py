"""Clients for a store on S3: boto3's for objects, Arrow's for columns. An endpoint flows in, a client flows out.

Credentials come from the environment or the instance profile, as boto3 and Arrow find them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tljobs.errors import UsageError
from tljobs.store.s3_retry import DEFAULT_LIMITS, Limits, limit_time

if TYPE_CHECKING:
    from pyarrow import fs as pafs

ARROW_ATTEMPTS = 4  # its pauses double as botocore's do, but every time-out is waited for in full


def s3_client(endpoint_url: str | None, limits: Limits = DEFAULT_LIMITS) -> Any:
    """A boto3 client with our time-outs and retries; path-style addresses for servers of one's own.

    Raises UsageError when the endpoint is no address.
    """
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=limits.connect_timeout_s,
        read_timeout=limits.read_timeout_s,
        retries={"total_max_attempts": limits.attempts, "mode": "standard"},
        s3={"addressing_style": "path"} if endpoint_url else {},
    )
    # A session of its own: the default session is shared and not safe to create clients from in threads.
    session = boto3.session.Session()
    try:
        client = session.client("s3", endpoint_url=endpoint_url, region_name=_region(), config=config)
    except ValueError as error:
        raise UsageError("no address of an S3 server", endpoint_url or "", "Such as http://host:9000") from error
    limit_time(client, limits)
    return client


def s3_filesystem(
    endpoint_url: str | None, attempts: int = ARROW_ATTEMPTS, limits: Limits = DEFAULT_LIMITS
) -> pafs.FileSystem:
    """Arrow's S3 filesystem for the same endpoint and credentials."""
    from pyarrow import fs as pafs

    # Arrow uploads without Content-Length otherwise, which some servers answer with 411. Read once by the AWS SDK.
    os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    options: dict[str, Any] = {
        "region": _region(),
        "connect_timeout": limits.connect_timeout_s,
        "request_timeout": limits.read_timeout_s,
        "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=attempts),
    }
    if endpoint_url:
        scheme, _, host = endpoint_url.rpartition("://")
        options |= {"scheme": scheme or "https", "endpoint_override": host.rstrip("/")}
    return pafs.S3FileSystem(**options)


def _region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
