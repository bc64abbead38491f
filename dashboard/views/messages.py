"""What a page says when there is nothing to show, or when the store answers with an error."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

import streamlit as st

from dashboard.text import plain
from tljobs.errors import TljobsError

P = ParamSpec("P")

FIRST_COMMANDS = """\
tljobs prepare PHOTOS --name NAME    # a folder of class folders becomes a dataset
tljobs train NAME                    # a pretrained network is fine-tuned on it
tljobs predict RUN IMAGE             # the run's model labels an image"""


def explained(view: Callable[P, None]) -> Callable[P, None]:
    """The view, with errors meant for users shown as a message in its place."""

    @functools.wraps(view)
    def shown(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            view(*args, **kwargs)
        except TljobsError as error:
            failure(error.what, error.where, error.hint)

    return shown


def failure(what: str, where: str, hint: str) -> None:
    """An error in its three parts; the middle one literally."""
    st.error(f"**{plain(what)}**" if what else "**unknown error**", icon=":material/warning:")
    if where:
        st.code(where, language=None, wrap_lines=True)
    if hint:
        st.caption(plain(hint))


def empty_store(uri: str) -> None:
    """The first three commands."""
    st.info("There are no runs in this store yet. These three commands make the first one:")
    st.code(FIRST_COMMANDS, language="shell")
    st.caption(f"Store: {plain(uri)}")
