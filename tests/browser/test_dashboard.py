"""The dashboard in a real browser: table, run, confusion matrix, images, deep links, foreign hosts."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboard_store import CLASSES, beat, build_store, finish_run
from playwright.sync_api import Page, WebSocket, expect, sync_playwright

from tljobs.store import LocalStore

pytestmark = pytest.mark.slow

START_TIMEOUT_S = 60.0
PAGE_TIMEOUT_MS = 60_000
HEADER_PX, ROW_PX = 35, 35
SETTLE_MS = 2_000
QUIET_MS = 6_000  # longer than the refresh of a running run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """A store with real records."""
    built = LocalStore(tmp_path_factory.mktemp("dashboard_browser"))
    build_store(built)
    return built


@pytest.fixture(scope="module")
def address(store: LocalStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a running dashboard on that store."""
    with running_dashboard(store.root, tmp_path_factory.mktemp("dashboard_log") / "server.log") as url:
        yield url


@contextlib.contextmanager
def running_dashboard(store: Path, log: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dashboard", "--store", str(store), "--port", str(port), "--no-browser"]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as server:
        try:
            _wait_until_healthy(f"http://127.0.0.1:{port}", server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            if urllib.request.urlopen(f"{url}/_stcore/health", timeout=5).read() == b"ok":
                return
        time.sleep(0.2)
    raise AssertionError(f"the dashboard did not start: {log.read_text()}")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        opened = browser.new_page(viewport={"width": 1400, "height": 1000})
        opened.set_default_timeout(PAGE_TIMEOUT_MS)
        expect.set_options(timeout=PAGE_TIMEOUT_MS)
        yield opened
        browser.close()


def test_a_click_on_a_run_opens_it(address: str, page: Page) -> None:
    page.goto(f"{address}/")
    expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
    expect(page).to_have_url(f"{address}/runs")
    table = page.get_by_test_id("stDataFrame")
    expect(table).to_be_visible()
    # The grid is a canvas: the fourth row, in the column of names.
    table.click(position={"x": 80, "y": HEADER_PX + 3 * ROW_PX + ROW_PX // 2})
    expect(page.get_by_role("heading", name="first-run", exact=True)).to_be_visible()
    expect(page).to_have_url(f"{address}/run?name=first-run")


def test_the_run_shows_curves_and_the_images_of_its_errors(address: str, page: Page) -> None:
    page.goto(f"{address}/run?name=first-run")
    expect(page.get_by_role("heading", name="Confusion matrix")).to_be_visible()
    expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(3)
    images = page.get_by_test_id("stImage").locator("img")
    expect(images).to_have_count(3)
    for index in range(3):
        expect(images.nth(index)).to_have_js_property("naturalWidth", 64)


def test_a_click_on_a_cell_of_the_matrix_lists_its_images(address: str, page: Page) -> None:
    page.goto(f"{address}/run?name=first-run")
    chart = page.get_by_test_id("stVegaLiteChart").nth(2)
    expect(chart.locator("canvas, svg").first).to_be_visible()
    expect(page.get_by_text("Click a cell to see its images.")).to_be_visible()
    cell = _cell_centre(page, true_index=2, predicted_index=1)
    page.mouse.click(*cell)
    expect(page.get_by_text(f"{CLASSES[2]} predicted as {CLASSES[1]}: 1 images")).to_be_visible()
    expect(page.get_by_test_id("stImage").locator("img")).to_have_count(4)


def test_hostile_labels_and_file_names_are_shown_literally(address: str, page: Page) -> None:
    dialogs: list[str] = []

    def note(dialog: object) -> None:
        dialogs.append(str(dialog))

    page.on("dialog", note)
    page.goto(f"{address}/run?name=first-run")
    expect(page.get_by_text(f"{CLASSES[1]} → {CLASSES[0]} (80%)", exact=True)).to_be_visible()
    expect(page.get_by_text("<i>4 *a* --> :smile: $x$.jpg", exact=True)).to_be_visible()
    assert page.locator("img[src='x']").count() == 0
    assert dialogs == []


def test_a_failed_run_says_why(address: str, page: Page) -> None:
    page.goto(f"{address}/run?name=broken-run")
    expect(page.get_by_text("the loss is not a number", exact=True)).to_be_visible()
    expect(page.get_by_text("step 7, [x](javascript:1)", exact=True)).to_be_visible()
    assert page.locator("a[href^='javascript']").count() == 0


def test_a_running_run_shows_its_end_without_a_reload(address: str, store: LocalStore, page: Page) -> None:
    beat(store)
    page.goto(f"{address}/run?name=live-run")
    expect(page.get_by_text("running", exact=True)).to_be_visible()
    expect(page.get_by_text("phase head, epoch 2, step 15 of 50")).to_be_visible()
    finish_run(store, "live-run", seq=2)
    expect(page.get_by_text("finished", exact=True).first).to_be_visible()
    expect(page.get_by_text("running", exact=True)).to_have_count(0)


def test_a_page_where_nothing_runs_asks_for_nothing(address: str, page: Page) -> None:
    received: list[str] = []

    def listen(connection: WebSocket) -> None:
        connection.on("framereceived", lambda _: received.append(connection.url))

    page.on("websocket", listen)
    page.goto(f"{address}/run?name=first-run")
    expect(page.get_by_test_id("stImage").locator("img")).to_have_count(3)
    expect(page.get_by_role("heading", name="Configuration")).to_be_visible()
    assert received
    page.wait_for_timeout(SETTLE_MS)
    received.clear()
    page.wait_for_timeout(QUIET_MS)
    assert received == []


def test_nothing_is_fetched_from_elsewhere(address: str, page: Page) -> None:
    foreign: list[str] = []

    def note(request: object) -> None:
        url = str(getattr(request, "url", ""))
        if not url.startswith((address, "data:", "blob:")):
            foreign.append(url)

    page.on("request", note)
    page.goto(f"{address}/runs")
    expect(page.get_by_test_id("stDataFrame")).to_be_visible()
    page.get_by_role("link", name=re.compile("Predict")).click()
    expect(page.get_by_text("There is no finished run with a model in this store yet.")).to_be_visible()
    assert foreign == []


@pytest.mark.parametrize(
    ("origin", "host", "accepted"),
    [
        ("http://{own}", "{own}", True),
        ("http://evil.example", "{own}", False),
        ("http://evil.example", "evil.example", False),
        ("http://rebound.example:{port}", "rebound.example:{port}", False),
    ],
)
def test_only_its_own_pages_may_open_a_connection(address: str, origin: str, host: str, accepted: bool) -> None:
    own = address.removeprefix("http://")
    port = own.rpartition(":")[2]
    request = (
        "GET /_stcore/stream HTTP/1.1\r\n"
        f"Host: {host.format(own=own, port=port)}\r\nOrigin: {origin.format(own=own, port=port)}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: streamlit\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", int(port)), timeout=10) as connection:
        connection.sendall(request.encode())
        status = connection.recv(64).split(b"\r\n")[0]
    assert (b" 101 " in status) == accepted, status


def _cell_centre(page: Page, true_index: int, predicted_index: int) -> tuple[float, float]:
    """Where a cell of the confusion matrix (the third chart) lies on the page: its row's marks are in class order."""
    chart = page.get_by_test_id("stVegaLiteChart").nth(2)
    chart.scroll_into_view_if_needed()
    cells = chart.locator("g.mark-rect path")
    expect(cells).to_have_count(len(CLASSES) ** 2)
    box = cells.nth(true_index * len(CLASSES) + predicted_index).bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
