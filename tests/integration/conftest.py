"""What the integration tests share: one Ray, one dataset, and runs that were never interrupted to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from images import make_class_folders
from s3_server import S3Server

from tljobs import cli
from tljobs.data.prepare import prepare
from tljobs.progress import Silent
from tljobs.records import DatasetManifest
from tljobs.runs import open_dataset
from tljobs.specs import PrepareSpec, TrainSpec
from tljobs.store import LocalStore, Store
from tljobs.training.train import train

CLASSES = ("checks", "disc", "stripes")


@pytest.fixture(scope="session")
def ray_two_cpus(s3_server: S3Server) -> Iterator[None]:
    """An embedded Ray of two CPUs; the verbs use it instead of starting their own. It starts after the S3 server,
    whose address and keys its workers inherit."""
    import ray

    if ray.is_initialized():
        yield
        return
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=256 * 2**20)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes with 40 JPEGs each."""
    return make_class_folders(tmp_path_factory.mktemp("photos"), CLASSES, per_class=40, size_px=72)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return LocalStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def dataset(store: Store, photos: Path, ray_two_cpus: None) -> DatasetManifest:
    """`shapes` at 48 px: 97 or so training images, no multiple of any batch."""
    prepare(PrepareSpec(source=str(photos), name="shapes", image_size=48), store, Silent())
    return open_dataset(store, "shapes")


@pytest.fixture(scope="session")
def whole_run(store: Store, dataset: DatasetManifest) -> Callable[[TrainSpec], str]:
    """Trains a run without interruption, once per session and spec; returns its name."""

    def trained(spec: TrainSpec) -> str:
        result = train(spec, store, Silent())
        assert result is not None
        return result.run

    return trained


@dataclass(frozen=True)
class Done:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


@pytest.fixture
def tljobs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ray_two_cpus: None
) -> Callable[..., Done]:
    """Runs a command line in a folder, in this process, on the Ray that is running; no traceback may appear."""

    def run(*arguments: str, folder: Path) -> Done:
        monkeypatch.chdir(folder)
        code = cli.run(list(arguments))
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Done(code, captured.out, captured.err)

    return run
