"""What doctor says of a real S3 server in good and in bad state."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from s3_proxy import EVERY, Fault, Proxy, running_proxy
from s3_server import S3Server

from tljobs import cli
from tljobs.store import S3Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> str:
    return s3_server.new_bucket()


@pytest.fixture
def store(s3_server: S3Server, bucket: str) -> Iterator[S3Store]:
    """Whatever doctor meets, nothing of it may be there afterwards."""
    store = S3Store(bucket, "", s3_server.endpoint_url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
        yield store
    assert store.list("") == []


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[Proxy]:
    with running_proxy(s3_server) as proxy:
        yield proxy


def diagnosed(uri: str, endpoint_url: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and the checks of the store by name."""
    code = cli.run(["doctor", "--json", "--store", uri, "--endpoint-url", endpoint_url])
    checks = json.loads(capsys.readouterr().out)["checks"]
    return code, {check["name"]: check for check in checks if check["area"] == "store"}


def test_a_good_server_passes_and_its_clock_is_compared(store: S3Store, capsys: pytest.CaptureFixture[str]) -> None:
    code, checks = diagnosed(store.uri, str(store.endpoint_url), capsys)
    assert code == 0
    assert set(checks) >= {"create", "create again is refused", "read", "range read", "list", "delete", "clock"}
    assert "failed" not in {check["status"] for check in checks.values()}
    assert abs(float(checks["clock"]["figure"].split()[0])) <= 5


@pytest.mark.parametrize(
    ("variable", "value", "fix"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "Check the access and secret key"),
        ("AWS_ACCESS_KEY_ID", "nobody", "Check the access and secret key"),
    ],
)
def test_a_wrong_key(
    store: S3Store,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str,
    fix: str,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable, value)
        code, checks = diagnosed(store.uri, str(store.endpoint_url), capsys)
    assert code == 5
    assert list(checks) == ["answers"], "the other steps would only fail alike"
    assert fix in checks["answers"]["fix"]


def test_a_bucket_that_is_not_there(store: S3Store, capsys: pytest.CaptureFixture[str]) -> None:
    code, checks = diagnosed("s3://no-such-bucket", str(store.endpoint_url), capsys)
    assert (code, list(checks)) == (5, ["answers"])
    assert "no such bucket" in checks["answers"]["figure"]
    assert "Create it" in checks["answers"]["fix"]


def test_no_bucket_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "--store", "s3://"]) == 2
    assert "needs a bucket" in capsys.readouterr().err


def test_a_refused_connection_is_told_soon(store: S3Store, capsys: pytest.CaptureFixture[str]) -> None:
    code, checks = diagnosed(store.uri, "http://127.0.0.1:9", capsys)
    assert code == 5
    assert "cannot be reached" in checks["answers"]["figure"]
    assert "http://127.0.0.1:9" in checks["answers"]["fix"]


def test_keys_that_may_only_read(store: S3Store, proxy: Proxy, capsys: pytest.CaptureFixture[str]) -> None:
    proxy.inject_rate("PUT", 1.0, [Fault.DENIED])
    code, checks = diagnosed(store.uri, proxy.endpoint_url, capsys)
    assert (code, checks["answers"]["status"], checks["create"]["status"]) == (5, "ok", "failed")
    assert "need the permission s3:PutObject" in checks["create"]["fix"]


def test_a_server_without_conditional_puts_is_refused_by_name(
    store: S3Store, proxy: Proxy, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.inject_rate("PUT", 1.0, [Fault.IGNORE_CONDITIONS])
    code, checks = diagnosed(store.uri, proxy.endpoint_url, capsys)
    assert (code, checks["create"]["status"]) == (5, "failed")
    assert (
        f"ignores conditional puts (If-None-Match), so two jobs could overwrite each other: {proxy.endpoint_url}"
        in (checks["create"]["figure"])
    )
    assert "SeaweedFS" in checks["create"]["fix"]


def test_a_clock_that_is_off(store: S3Store, proxy: Proxy, capsys: pytest.CaptureFixture[str]) -> None:
    proxy.inject_rate(EVERY, 1.0, [Fault.SKEWED])
    code, checks = diagnosed(store.uri, proxy.endpoint_url, capsys)
    assert code == 5
    assert "Set the clock, it is 3" in checks["answers"]["fix"]
