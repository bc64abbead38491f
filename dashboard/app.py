"""The Streamlit script: pages and navigation. Run by `dashboard.__main__`, which also sets the store's address."""

from __future__ import annotations

import streamlit as st

from dashboard import source
from dashboard.views import predict, run, runs

SIDEBAR_PX = 220


def main() -> None:
    """Draws the page that the URL asks for: /runs, /run?name=…, /predict?run=…"""
    st.set_page_config(page_title="tljobs", page_icon="🌱", layout="wide", initial_sidebar_state=SIDEBAR_PX)

    def open_run(name: str) -> None:
        st.switch_page(run_page, query_params={"name": name})

    def open_predict(name: str) -> None:
        st.switch_page(predict_page, query_params={"run": name})

    def show_runs() -> None:
        runs.page(open_run)

    def show_run() -> None:
        run.page(open_predict)

    def show_home() -> None:
        st.switch_page(runs_page)

    # The default page has no path of its own in Streamlit, and /runs must work as a link.
    home_page = st.Page(show_home, title="Home", url_path="home", default=True, visibility="hidden")
    runs_page = st.Page(show_runs, title="Runs", icon=":material/list:", url_path="runs")
    run_page = st.Page(show_run, title="Run", icon=":material/show_chart:", url_path="run")
    predict_page = st.Page(predict.page, title="Predict", icon=":material/image_search:", url_path="predict")
    chosen = st.navigation([home_page, runs_page, run_page, predict_page])
    _sidebar()
    chosen.run()


def _sidebar() -> None:
    at = source.address()
    with st.sidebar:
        st.caption("Store")
        st.text(at.uri)
        if at.endpoint_url:
            st.text(at.endpoint_url)
        if st.button("Reload", key="reload", help="Reads everything from the store again"):
            st.cache_data.clear()
            st.rerun()


if __name__ == "__main__":
    main()
