"""A number on a card, with a note below it."""

from __future__ import annotations

import streamlit as st

from dashboard.text import plain

WIDTH_PX = 230


def card(title: str, value: str, note: str) -> None:
    """`note`, such as an interval, may be empty."""
    st.metric(
        plain(title),
        value,
        plain(note) or None,
        delta_color="off",
        delta_arrow="off",
        border=True,
        width=WIDTH_PX,
    )
