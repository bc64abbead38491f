"""Download, check and unpacking against a real HTTP server on this host and archives made here."""

import contextlib
import gzip
import hashlib
import io
import os
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tljobs.data import flowers
from tljobs.data.flowers import FLOWERS, Archive, Limits, check_reachable, flower_photos, unpack
from tljobs.errors import InputRefused, Unreachable
from tljobs.progress import Silent

pytestmark = pytest.mark.timeout(60)

NO_STALL = Limits(answer_s=15, stall_s=0.5, download_s=60)
NO_TRICKLE = Limits(answer_s=15, stall_s=15, download_s=1)
PHOTOS = {"flower_photos/LICENSE.txt": b"CC BY", "flower_photos/roses/1.jpg": os.urandom(70_000)}


def tgz(files: dict[str, bytes], *special: tarfile.TarInfo) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for member in special:
            archive.addfile(member)
    return packed.getvalue()


def special_member(kind: bytes, name: str, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


class Server:
    """Serves `body` with a claimed length; `pace` is called before each piece, and may sleep."""

    def __init__(self) -> None:
        self.body, self.claimed = b"", -1
        self.status = 200
        self.pace: Callable[[], None] = lambda: None
        self.requests: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                outer.requests.append(self.command)
                self.send_response(outer.status)
                self.send_header("Content-Length", str(outer.claimed if outer.claimed >= 0 else len(outer.body)))
                self.end_headers()

            def do_GET(self) -> None:
                self.do_HEAD()
                with contextlib.suppress(ConnectionError):
                    for start in range(0, len(outer.body), 1000):
                        outer.pace()
                        self.wfile.write(outer.body[start : start + 1000])

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/flower_photos.tgz"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def archive(self, published: bytes) -> Archive:
        return Archive(self.url, len(published), hashlib.sha256(published).hexdigest(), "flower_photos")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    running.body = tgz(PHOTOS)
    yield running
    running.close()


def assert_nothing_is_left(cache: Path) -> None:
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_photos_are_downloaded_checked_and_unpacked(server: Server, tmp_path: Path) -> None:
    folder = flower_photos(tmp_path, Silent(), server.archive(server.body))
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == {
        Path(name).name: data for name, data in PHOTOS.items()
    }
    assert list(tmp_path.rglob("*.tgz")) == []


def test_a_second_call_asks_no_server(server: Server, tmp_path: Path) -> None:
    archive = server.archive(server.body)
    first = flower_photos(tmp_path, Silent(), archive)
    server.requests.clear()
    assert flower_photos(tmp_path, Silent(), archive) == first
    assert server.requests == []


def test_other_bytes_of_the_same_size_are_refused(server: Server, tmp_path: Path) -> None:
    archive = server.archive(server.body)
    server.body = server.body[:-1] + bytes([server.body[-1] ^ 1])
    with pytest.raises(InputRefused, match="not the published one"):
        flower_photos(tmp_path, Silent(), archive)
    assert_nothing_is_left(tmp_path)


def test_a_download_is_never_read_far_beyond_its_size(server: Server, tmp_path: Path) -> None:
    archive = server.archive(server.body)
    target = tmp_path / "x.tgz"
    server.body, server.claimed = server.body + bytes(5_000_000), len(server.body) + 5_000_000
    with pytest.raises(InputRefused, match="not the published one"):
        flowers.download(archive, target, Silent(), Limits())
    assert target.stat().st_size <= archive.size_bytes


def test_a_download_that_ends_early_leaves_nothing(server: Server, tmp_path: Path) -> None:
    archive = server.archive(server.body)
    server.claimed, server.body = len(server.body), server.body[:-500]
    with pytest.raises(Unreachable, match=r"cannot be downloaded|ended early"):
        flower_photos(tmp_path, Silent(), archive, NO_STALL)
    assert_nothing_is_left(tmp_path)


def test_a_server_that_stops_sending_is_given_up(server: Server, tmp_path: Path) -> None:
    release = threading.Event()
    server.pace = lambda: None if len(server.requests) < 2 else (release.wait(20), None)[1]
    started_s = time.monotonic()
    with pytest.raises(Unreachable, match="timed out"):
        flower_photos(tmp_path, Silent(), server.archive(server.body), NO_STALL)
    assert time.monotonic() - started_s < 18
    release.set()
    assert_nothing_is_left(tmp_path)


def test_a_server_that_trickles_is_given_up(server: Server, tmp_path: Path) -> None:
    ended = threading.Event()
    server.pace = lambda: (ended.wait(0.1), None)[1]
    with pytest.raises(Unreachable, match="not complete after 1 s"):
        flower_photos(tmp_path, Silent(), server.archive(server.body), NO_TRICKLE)
    ended.set()


def test_an_error_page_is_unreachable(server: Server) -> None:
    archive, server.status = server.archive(server.body), 503
    with pytest.raises(Unreachable, match="Service Unavailable"):
        check_reachable(archive, 15)


def test_a_page_of_another_size_is_not_taken_for_the_photos(server: Server) -> None:
    archive, server.body = server.archive(server.body), b"<html>Sign in to the guest network</html>"
    with pytest.raises(Unreachable, match="something else answers"):
        check_reachable(archive, 15)


def test_a_port_that_nobody_listens_at_is_unreachable_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        archive = Archive(f"http://127.0.0.1:{taken.getsockname()[1]}/x", 1, "0" * 64, "x")
        with pytest.raises(Unreachable, match="refused"):
            check_reachable(archive, 5)


def test_a_server_that_never_answers_is_given_up_in_time() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        archive = Archive(f"http://127.0.0.1:{silent.getsockname()[1]}/x", 1, "0" * 64, "x")
        started_s = time.monotonic()
        with pytest.raises(Unreachable, match="cannot be downloaded"):
            check_reachable(archive, 0.5)
        assert time.monotonic() - started_s < 5


def test_the_published_address_is_https_and_its_hash_a_sha256() -> None:
    assert FLOWERS.url.startswith("https://")
    assert len(bytes.fromhex(FLOWERS.sha256)) == 32


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (special_member(tarfile.SYMTYPE, "a/link", "/etc/passwd"), "a link or a device"),
        (special_member(tarfile.SYMTYPE, "a/link", "b"), "a link or a device"),
        (special_member(tarfile.LNKTYPE, "a/hard", "a/b"), "a link or a device"),
        (special_member(tarfile.FIFOTYPE, "a/pipe"), "a link or a device"),
        (special_member(tarfile.CHRTYPE, "a/device"), "a link or a device"),
        (special_member(tarfile.DIRTYPE, "../outside"), "leads out of the folder"),
        (special_member(tarfile.REGTYPE, "a/../../outside.jpg"), "leads out of the folder"),
    ],
    ids=lambda value: value.name if isinstance(value, tarfile.TarInfo) else "",
)
def test_members_that_reach_outside_are_refused(tmp_path: Path, member: tarfile.TarInfo, message: str) -> None:
    packed, target = tmp_path / "x.tgz", tmp_path / "target"
    packed.write_bytes(tgz({}, member))
    target.mkdir()
    with pytest.raises(InputRefused, match=message):
        unpack(packed, target)
    assert {path.name for path in tmp_path.iterdir()} == {"x.tgz", "target"}
    assert list(target.rglob("*")) in ([], [target / "a"])


def test_an_absolute_name_stays_inside_the_folder(tmp_path: Path) -> None:
    packed, target = tmp_path / "x.tgz", tmp_path / "target"
    packed.write_bytes(tgz({f"{tmp_path}/evil.jpg": b"1"}))
    target.mkdir()
    unpack(packed, target)
    assert not (tmp_path / "evil.jpg").exists()


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "x.tgz"
    packed.write_bytes(tgz({"a.jpg": bytes(2000), "b.jpg": bytes(2000)}))
    monkeypatch.setattr(flowers, "MAX_UNPACKED_BYTES", 3000)
    with pytest.raises(InputRefused, match=r"too large.*b\.jpg"):
        unpack(packed, tmp_path)
    assert not (tmp_path / "b.jpg").exists()


def test_an_archive_of_too_many_members_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "x.tgz"
    packed.write_bytes(tgz({f"{number}.jpg": b"" for number in range(4)}))
    monkeypatch.setattr(flowers, "MAX_MEMBERS", 3)
    with pytest.raises(InputRefused, match="too large"):
        unpack(packed, tmp_path)


@pytest.mark.parametrize("damage", ["text", "cut", "no tar inside"])
def test_a_damaged_archive_is_refused(tmp_path: Path, damage: str) -> None:
    whole = tgz(PHOTOS)
    middle = len(whole) // 2
    data = {
        "text": b"<html>not found</html>",
        "cut": whole[:middle],
        "no tar inside": gzip.compress(b"\xff" * 5000),
    }[damage]
    (tmp_path / "x.tgz").write_bytes(data)
    with pytest.raises(InputRefused, match="damaged"):
        unpack(tmp_path / "x.tgz", tmp_path)
