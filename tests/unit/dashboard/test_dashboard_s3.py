"""The run page on a store in S3."""

from __future__ import annotations

import pytest
import streamlit as st
from dashboard_store import build_store
from s3_server import S3Server
from streamlit.testing.v1 import AppTest

from tljobs.store import open_store

pytestmark = pytest.mark.slow


def run_script() -> None:
    from dashboard.views import run

    run.page(lambda _: None)


def test_a_run_in_s3_shows_its_evaluation_and_images(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"s3://{s3_server.new_bucket()}/jobs"
    build_store(open_store(uri, s3_server.endpoint_url))
    monkeypatch.setenv("TLJOBS_STORE", uri)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    st.cache_data.clear()
    app = AppTest.from_function(run_script, default_timeout=60)
    app.query_params["name"] = "first-run"
    app.run()
    assert not app.exception
    assert not app.error
    assert app.title[0].value == "first\\-run"
    assert len(app.get("image")) == 3
