"""From a trained run to the right label in a browser: the run is seen, a photo is uploaded, its class is read."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from images import jpeg_bytes, make_class_folders
from playwright.sync_api import Page, expect, sync_playwright

from tljobs.data.prepare import prepare
from tljobs.progress import Silent
from tljobs.runs import open_run
from tljobs.specs import PrepareSpec, TrainSpec
from tljobs.store import LocalStore
from tljobs.training.train import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CLASSES = ["checks", "disc", "stripes"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """A run that was really trained."""
    folder = tmp_path_factory.mktemp("trained")
    photos = make_class_folders(folder / "photos", CLASSES, per_class=40, size_px=72)
    store = LocalStore(folder / "store")
    prepare(PrepareSpec(source=str(photos), name="shapes", image_size=48), store, Silent())
    spec = TrainSpec(
        dataset="shapes",
        name="first",
        backbone="small-cnn",
        weights="none",
        unfreeze="all",
        fine_tune_factor=1.0,
        batchnorm="sync",
        learning_rate=1e-2,
        head_epochs=1,
        epochs=12,
    )
    train(spec, store, Silent())
    return store


@pytest.fixture(scope="module")
def address(store: LocalStore) -> Iterator[str]:
    """The dashboard as `tljobs dashboard` serves it."""
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "tljobs", "dashboard", "--no-browser", "--port", str(port), "--store", store.uri]
    server = subprocess.Popen(command, env=os.environ.copy(), start_new_session=True)
    try:
        _wait(f"http://127.0.0.1:{port}/_stcore/health", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield browser.new_page(viewport={"width": 1400, "height": 1000})
        browser.close()


def test_the_run_is_seen_and_an_uploaded_photo_gets_its_class(
    store: LocalStore, address: str, page: Page, tmp_path: Path
) -> None:
    assert open_run(store, "first").scores["val"]["accuracy"] > 0.7, "the network has learnt the classes"
    page.goto(f"{address}/run?name=first", wait_until="domcontentloaded")
    expect(page.get_by_role("heading", name="first").first).to_be_visible(timeout=60_000)
    right = 0
    for index, name in enumerate(CLASSES):
        photo = tmp_path / f"unseen-{index}.jpg"
        photo.write_bytes(jpeg_bytes(index, number=500, size_px=72))
        page.goto(f"{address}/predict?run=first", wait_until="domcontentloaded")
        page.locator("input[type=file]").set_input_files(str(photo))
        answer = page.locator(".st-key-prediction-0").get_by_test_id("stMetricValue").first
        expect(answer).to_be_visible(timeout=120_000)
        right += answer.inner_text().strip() == name
    assert right >= 2
    page.screenshot(path=str(tmp_path / "predict.png"))


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + 90
    while time.monotonic() < deadline_s:
        assert server.poll() is None, "the dashboard has ended"
        try:
            urllib.request.urlopen(url, timeout=2).read()
        except OSError:
            time.sleep(0.3)
        else:
            return
    raise AssertionError("the dashboard does not answer")
