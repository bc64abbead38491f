"""A store on a real S3 server, with and without a proxy that misbehaves in front of it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from s3_proxy import Proxy, running_proxy
from s3_server import S3Server

from tljobs.store import Limits, S3Store

# As in use, but for a hanging server, which is given up soon.
QUICK = Limits(read_timeout_s=1, total_s=20)


@pytest.fixture(scope="session")
def bucket(s3_server: S3Server) -> str:
    """One for all: each bucket takes volumes of the server, which has a limited number of them."""
    return s3_server.new_bucket()


@pytest.fixture
def clean(s3_server: S3Server, bucket: str) -> S3Store:
    """The store without faults, with nothing in it."""
    return S3Store(bucket, f"team/{secrets.token_hex(8)}", s3_server.endpoint_url)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[Proxy]:
    with running_proxy(s3_server) as proxy:
        yield proxy


@pytest.fixture
def faulty(clean: S3Store, proxy: Proxy) -> S3Store:
    """The same bucket and prefix through the proxy; conditional puts are already probed."""
    store = S3Store(clean.bucket, clean.prefix, proxy.endpoint_url, QUICK)
    store.create("probed", b"")
    return store
