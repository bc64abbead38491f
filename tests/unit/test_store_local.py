import errno
import hashlib
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_contract import StoreContract

from tljobs.errors import InputRefused, NotFound, Unreachable, UsageError
from tljobs.store import LocalStore, open_store

KEY = "runs/a/run.json"
NOBODY = 65534
CRASH_BEFORE_THE_LINK = """
import os, sys
from pathlib import Path
from tljobs.store import LocalStore

os.link = lambda source, target: os._exit(9)
LocalStore(Path(sys.argv[1])).create("runs/a/run.json", b"half done")
"""
CREATE_WITHOUT_END = """
import itertools, sys
from pathlib import Path
from tljobs.store import LocalStore

store = LocalStore(Path(sys.argv[1]))
print("started", flush=True)
for number in itertools.count():
    store.create(f"{sys.argv[2]}/{number:06}", f"{number:06}".encode() * 50_000)
"""
REPORT_THE_ERROR = """
import os, resource, secrets, sys, traceback
from pathlib import Path
from tljobs.errors import TljobsError
from tljobs.store import LocalStore

store, user, limit_bytes = LocalStore(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
if os.geteuid() == 0:
    os.setuid(user)
try:
    store.create("runs/a/run.json", b"x" * 1_000_000)
except TljobsError as error:
    print(type(error).__name__, error)
print([entry.key for entry in store.list("")])
"""


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="store-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def run_python(code: str, *arguments: object, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


class TestLocalStore(StoreContract):
    pass


@pytest.mark.parametrize("form", ["{path}", "file://{path}"])
def test_opens_a_folder_in_both_forms(tmp_path: Path, form: str) -> None:
    assert open_store(form.format(path=tmp_path)).uri == str(tmp_path)


def test_a_relative_folder_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("./here").uri == str(tmp_path / "here")


@pytest.mark.parametrize(("uri", "message"), [("s3://", "bucket"), ("gs://bucket/x", "unknown kind of store")])
def test_refuses_what_is_no_store(uri: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_store(uri)


def test_a_crash_before_the_link_leaves_nothing_readable_and_can_be_repeated(store: LocalStore) -> None:
    assert run_python(CRASH_BEFORE_THE_LINK, store.root).returncode == 9
    assert any(store.root.rglob(".tmp-*")), "the crash came after the bytes were on disk"
    assert store.list("") == []
    with pytest.raises(NotFound):
        store.read(KEY)
    store.create(KEY, b"whole")
    assert store.read(KEY) == b"whole"


def test_a_writer_killed_at_any_moment_leaves_only_whole_objects(store: LocalStore) -> None:
    moments = random.Random(0)
    for round_number in range(5):
        command = [sys.executable, "-c", CREATE_WITHOUT_END, str(store.root), f"round-{round_number}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(moments.uniform(0.02, 0.1))
            writer.kill()
    entries = store.list("")
    assert entries
    for entry in entries:
        assert store.read(entry.key) == entry.key[-6:].encode() * 50_000


def test_lists_while_others_delete(store: LocalStore) -> None:
    done = threading.Event()

    def churn() -> None:
        while not done.is_set():
            for number in range(50):
                store.put(f"runs/a/{number}", b"")
            for number in range(50):
                store.delete(f"runs/a/{number}")

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            assert all(entry.key.startswith("runs/a/") for entry in store.list("runs/"))
    finally:
        done.set()
        thread.join()


def test_a_file_limit_is_a_clear_refusal_and_leaves_nothing(open_folder: Path) -> None:
    shown = run_python(REPORT_THE_ERROR, open_folder, os.geteuid(), 4096)
    assert shown.stdout.startswith("Unreachable no space left in the store"), shown
    assert shown.stdout.endswith("[]\n")
    assert not list(open_folder.rglob("*.*"))


def test_a_full_disk_is_a_clear_refusal_and_leaves_nothing(open_folder: Path) -> None:
    mount = f"mount -t tmpfs -o size=256k tmpfs {open_folder} && exec"
    own_mounts = ("unshare", "--mount", "--map-root-user", "sh", "-c", f'{mount} "$@"', "sh")
    if run_python("", prefix=own_mounts).returncode:
        pytest.skip("this machine lets no test mount a small disk; the file limit test covers the same path")
    shown = run_python(REPORT_THE_ERROR, open_folder, 0, resource.RLIM_INFINITY, prefix=own_mounts)
    assert shown.stdout.startswith("Unreachable no space left in the store"), shown
    assert "Free some space" in shown.stdout
    assert shown.stdout.endswith("[]\n")


def test_a_read_only_folder_is_a_clear_refusal(open_folder: Path) -> None:
    open_folder.chmod(0o555)
    shown = run_python(REPORT_THE_ERROR, open_folder, NOBODY, resource.RLIM_INFINITY)
    assert shown.stdout.startswith("Unreachable the store cannot be used"), shown
    assert "Permission denied" in shown.stdout


def test_a_file_in_place_of_the_folder_is_a_clear_refusal(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("not a folder")
    with pytest.raises(Unreachable, match="cannot be used"):
        LocalStore(tmp_path / "store").create(KEY, b"")


def test_temporary_files_never_stay_behind(store: LocalStore) -> None:
    store.create(KEY, b"one")
    store.create(KEY, b"one")
    store.put(KEY, b"two")
    assert [path.name for path in store.root.rglob("*") if path.is_file()] == ["run.json"]


class BrokenDisk(LocalStore):
    """A disk that refuses the first step of a write, as the kernel would say it."""

    def __init__(self, root: Path, number: int) -> None:
        super().__init__(root)
        self.number = number

    def _write_temporary(self, path: Path, data: bytes) -> Path:
        raise OSError(self.number, os.strerror(self.number), str(path))


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "no space left in the store.*Free some space"),
        (errno.EDQUOT, "no space left in the store.*Free some space"),
        (errno.EACCES, "cannot be used while (creating|writing).*Check who owns the folder.*Permission denied"),
        (errno.EROFS, "cannot be used while (creating|writing).*read-only"),
        (errno.EIO, "cannot be used while (creating|writing).*The disk reports errors.*Input/output error"),
        (errno.ESTALE, "cannot be used while (creating|writing).*mount it again"),
        (errno.ENOENT, "folder vanished while (creating|writing)"),
    ],
)
def test_each_refusal_of_the_disk_is_one_message_with_its_fix(tmp_path: Path, number: int, message: str) -> None:
    store = BrokenDisk(tmp_path / "store", number)
    for write in (store.create, store.put):
        with pytest.raises(Unreachable, match=message) as caught:
            write(KEY, b"")
        assert caught.value.where == f"{store.uri}/{KEY}"
        assert "\n" not in str(caught.value)


def test_a_folder_that_may_not_be_read_is_not_taken_for_an_empty_one(open_folder: Path) -> None:
    (open_folder / "runs/a").mkdir(parents=True)
    (open_folder / "runs").chmod(0)
    shown = run_python(REPORT_THE_ERROR, open_folder, NOBODY, resource.RLIM_INFINITY)
    assert "Check who owns the folder" in shown.stdout
    assert "cannot be used while listing" in shown.stderr
    (open_folder / "runs").chmod(0o755)


def test_a_read_only_mount_is_a_clear_refusal(open_folder: Path) -> None:
    mount = f"mount -t tmpfs -o ro tmpfs {open_folder} && exec"
    own_mounts = ("unshare", "--mount", "--map-root-user", "sh", "-c", f'{mount} "$@"', "sh")
    if run_python("", prefix=own_mounts).returncode:
        pytest.skip("this machine lets no test mount a disk; the parametrized test covers the message")
    shown = run_python(REPORT_THE_ERROR, open_folder, 0, resource.RLIM_INFINITY, prefix=own_mounts)
    assert shown.stdout.startswith("Unreachable the store cannot be used while creating"), shown
    assert "mounted read-only" in shown.stdout


def test_a_store_that_vanishes_while_it_is_used_is_empty_and_can_be_filled_again(store: LocalStore) -> None:
    store.create(KEY, b"one")
    shutil.rmtree(store.root)
    assert (store.list(""), store.folders("runs/"), store.exists(KEY)) == ([], [], False)
    with pytest.raises(NotFound):
        store.read(KEY)
    store.delete(KEY)
    store.create(KEY, b"two")
    assert store.read(KEY) == b"two"


def test_wrong_bytes_are_named_with_what_differs(store: LocalStore) -> None:
    store.create(KEY, b"one")
    assert store.read_verified(KEY, 3, hashlib.sha256(b"one").hexdigest()) == b"one"
    with pytest.raises(InputRefused, match="its SHA-256 differs"):
        store.read_verified(KEY, 3, hashlib.sha256(b"two").hexdigest())
    with pytest.raises(InputRefused, match="3 bytes instead of 4"):
        store.read_verified(KEY, 4, "")
