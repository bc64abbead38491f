"""The predict page with a real model in its child process."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dashboard_model
import pytest
import streamlit as st
from dashboard_store import CLASSES, build_store
from PIL import Image
from streamlit.testing.v1 import AppTest

from dashboard.text import plain
from tljobs import layout
from tljobs.store import LocalStore

pytestmark = pytest.mark.slow
TIMEOUT_S = 200


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dashboard_predict")
    build_store(LocalStore(root))
    command = [sys.executable, dashboard_model.__file__, str(root), "first-run"]
    subprocess.run(command, check=True, timeout=TIMEOUT_S, capture_output=True)
    return root


@pytest.fixture(autouse=True)
def address(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TLJOBS_STORE", str(store))
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    st.cache_data.clear()
    yield
    st.cache_resource.clear()


def predict_script() -> None:
    from dashboard.views import predict

    predict.page()


def picture(colour: str, kind: str = "PNG", size: tuple[int, int] = (90, 70)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def test_uploaded_images_get_labels_and_bad_ones_a_reason() -> None:
    app = AppTest.from_function(predict_script, default_timeout=TIMEOUT_S).run()
    assert app.query_params["run"] == "first-run"
    uploader = app.file_uploader(key="images")
    uploader.upload("red.png", picture("red"), "image/png")
    uploader.upload("blue.tiff", picture("blue", "TIFF"), "image/tiff")
    uploader.upload("notes.jpg", b"only text, no picture at all", "image/jpeg")
    uploader.upload("tiny.png", picture("red", size=(4, 4)), "image/png")
    app.run()
    assert not app.exception
    assert not app.error
    # Red is the first class, blue the third.
    assert [(each.value, each.delta) for each in app.metric] == [(plain(CLASSES[0]), "99.9%"), (CLASSES[2], "99.9%")]
    assert [each.value for each in app.warning] == [
        "this file is not an image (not\\_an\\_image)",
        "the image is smaller than 8 pixels (too\\_small)",
    ]
    assert [each.value for each in app.text] == ["red.png", "blue.tiff", "notes.jpg", "tiny.png"]
    assert len(app.get("vega_lite_chart")) == 2


def test_a_model_file_that_was_changed_is_refused(store: Path) -> None:
    path = store / layout.run_model_file("first-run")
    original = path.read_bytes()
    path.write_bytes(original + b"\0")
    try:
        app = AppTest.from_function(predict_script, default_timeout=TIMEOUT_S).run()
        app.file_uploader(key="images").upload("red.png", picture("red"), "image/png").run()
        assert "the model file is not the one in its record" in app.error[0].value
        assert not app.metric
    finally:
        path.write_bytes(original)
