import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from s3_proxy import Fault, Proxy, free_port, running_proxy
from s3_server import S3Server
from store_contract import StoreContract

from tljobs.errors import NameTaken, NotFound, Unreachable
from tljobs.store import MAX_ATTEMPTS, S3Store, open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

KEY = "runs/a/run.json"
GIVES_UP_WITHIN_S = 25


@pytest.fixture
def store(s3_server: S3Server) -> S3Store:
    return S3Store(s3_server.new_bucket(), "team/tljobs", s3_server.endpoint_url)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[Proxy]:
    with running_proxy(s3_server) as proxy:
        yield proxy


@pytest.fixture
def behind_proxy(store: S3Store, proxy: Proxy) -> S3Store:
    """The same bucket and prefix, through a proxy that can misbehave; conditional puts are already probed."""
    same = S3Store(store.bucket, store.prefix, proxy.endpoint_url)
    same.create("probe", b"")
    return same


class NoS3Server(BaseHTTPRequestHandler):
    """A web site without the asked page."""

    def do_GET(self) -> None:
        self.send_error(404)


class TestS3Store(StoreContract):
    pass


def test_two_prefixes_of_one_bucket_do_not_see_each_other(s3_server: S3Server) -> None:
    bucket = s3_server.new_bucket()
    one, other, whole = (S3Store(bucket, prefix, s3_server.endpoint_url) for prefix in ("one", "one-more", ""))
    one.create(KEY, b"1")
    other.create(KEY, b"2")
    assert (one.read(KEY), other.read(KEY)) == (b"1", b"2")
    assert [entry.key for entry in one.list("")] == [KEY]
    assert [entry.key for entry in whole.list("")] == [f"one-more/{KEY}", f"one/{KEY}"]


def test_uri_without_endpoint_uses_the_one_of_the_environment(s3_server: S3Server) -> None:
    uri = f"s3://{s3_server.new_bucket()}/here"
    open_store(uri).create(KEY, b"1")
    assert open_store(uri, s3_server.endpoint_url).read(KEY) == b"1"


class TestRefusals:
    @pytest.fixture(autouse=True)
    def in_time(self) -> Iterator[None]:
        started_s = time.monotonic()
        yield
        assert time.monotonic() - started_s < GIVES_UP_WITHIN_S

    def test_an_endpoint_where_nothing_listens(self, store: S3Store) -> None:
        store = S3Store(store.bucket, "", "http://127.0.0.1:9")
        with pytest.raises(Unreachable, match=r"cannot be reached.*endpoint http://127\.0\.0\.1:9"):
            store.read(KEY)

    def test_an_endpoint_where_nothing_listens_for_columns(self, store: S3Store) -> None:
        store = S3Store(store.bucket, "", "http://127.0.0.1:9")
        with pytest.raises(Unreachable, match="cannot be reached while reading"):
            store.open_input(KEY)

    def test_a_wrong_secret(self, store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        for call in (lambda: store.read(KEY), lambda: store.create(KEY, b""), lambda: store.list("")):
            with pytest.raises(Unreachable, match=r"refuses these credentials.*secret key"):
                call()

    def test_an_unknown_access_key(self, store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        with pytest.raises(Unreachable, match=r"refuses these credentials.*InvalidAccessKeyId"):
            store.read(KEY)

    def test_no_credentials(self, store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(Unreachable, match=r"no S3 credentials.*Set AWS_ACCESS_KEY_ID"):
            store.read(KEY)

    def test_no_such_bucket(self, s3_server: S3Server) -> None:
        store = S3Store("no-such-bucket", "", s3_server.endpoint_url)
        for call in (lambda: store.read(KEY), lambda: store.create(KEY, b""), lambda: store.list("")):
            with pytest.raises(Unreachable, match=r"no such bucket while \w+: s3://no-such-bucket/.*Create it"):
                call()

    def test_an_endpoint_that_is_some_other_web_server(self, store: S3Store) -> None:
        with ThreadingHTTPServer(("127.0.0.1", 0), NoS3Server) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            store = S3Store(store.bucket, "", f"http://127.0.0.1:{server.server_port}")
            with pytest.raises(Unreachable, match=r"no S3 server.*Check the endpoint http://127"):
                store.read(KEY)
            server.shutdown()


class TestFaults:
    def test_a_server_that_ignores_conditions_is_refused_before_anything_is_committed(
        self, store: S3Store, proxy: Proxy
    ) -> None:
        proxy.inject("PUT", Fault.IGNORE_CONDITIONS, times=100)
        same = S3Store(store.bucket, store.prefix, proxy.endpoint_url)
        with pytest.raises(Unreachable, match=r"ignores conditional puts.*SeaweedFS"):
            same.create(KEY, b"1")
        assert store.list("") == []

    def test_a_commit_whose_reply_is_lost_is_not_lost(self, behind_proxy: S3Store, proxy: Proxy) -> None:
        proxy.inject("PUT", Fault.LOSE_REPLY)
        before = proxy.requests["PUT"]
        behind_proxy.create(KEY, b"mine")
        assert behind_proxy.read(KEY) == b"mine"
        assert proxy.requests["PUT"] == before + 2

    def test_losing_against_others_is_noticed_also_when_the_reply_is_lost(
        self, store: S3Store, behind_proxy: S3Store, proxy: Proxy
    ) -> None:
        store.create(KEY, b"theirs")
        proxy.inject("PUT", Fault.LOSE_REPLY)
        with pytest.raises(NameTaken):
            behind_proxy.create(KEY, b"mine")
        assert store.read(KEY) == b"theirs"

    def test_a_conflict_is_tried_again(self, behind_proxy: S3Store, proxy: Proxy) -> None:
        proxy.inject("PUT", Fault.CONFLICT, times=2)
        behind_proxy.create(KEY, b"mine")
        assert behind_proxy.read(KEY) == b"mine"

    def test_a_conflict_without_end_is_given_up(self, behind_proxy: S3Store, proxy: Proxy) -> None:
        proxy.inject("PUT", Fault.CONFLICT, times=100)
        with pytest.raises(Unreachable, match="conflict"):
            behind_proxy.create(KEY, b"mine")

    def test_a_throttling_server_is_waited_for(self, behind_proxy: S3Store, proxy: Proxy) -> None:
        proxy.inject("PUT", Fault.SLOW_DOWN, times=2)
        behind_proxy.create(KEY, b"mine")
        proxy.inject("GET", Fault.SLOW_DOWN, times=2)
        assert behind_proxy.read(KEY) == b"mine"

    def test_a_body_that_breaks_off_is_read_again(self, behind_proxy: S3Store, proxy: Proxy) -> None:
        behind_proxy.create(KEY, b"0123456789")
        proxy.inject("GET", Fault.CUT_BODY, times=2)
        assert behind_proxy.read(KEY) == b"0123456789"

    def test_a_body_that_always_breaks_off_is_never_taken_for_whole(self, behind_proxy: S3Store, proxy: Proxy) -> None:
        behind_proxy.create(KEY, b"0123456789")
        proxy.inject("GET", Fault.CUT_BODY, times=3 * MAX_ATTEMPTS)
        with pytest.raises(Unreachable, match="breaks off"):
            behind_proxy.read(KEY)

    def test_a_missing_key_is_not_found_through_retries(self, behind_proxy: S3Store, proxy: Proxy) -> None:
        proxy.inject("GET", Fault.SLOW_DOWN)
        with pytest.raises(NotFound):
            behind_proxy.read(KEY)

    def test_a_server_that_comes_back_soon_is_waited_for(self, store: S3Store, s3_server: S3Server) -> None:
        store.create(KEY, b"here")
        port = free_port()
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(S3Store(store.bucket, store.prefix, f"http://127.0.0.1:{port}").read, KEY)
            time.sleep(0.3)
            with running_proxy(s3_server, port):
                assert answer.result(timeout=GIVES_UP_WITHIN_S) == b"here"
