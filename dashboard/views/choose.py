"""A choice that lives in the page's URL, so that a page can be linked to."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

WIDTH_PX = 420


def choose(label: str, options: Sequence[str], parameter: str) -> str | None:
    """The chosen option; the URL's query parameter follows it.

    Without the parameter the first option is chosen. A parameter that is no option is returned as it is, so that the
    page can say what is wrong with it. None when there is nothing to choose from.
    """
    asked = st.query_params.get(parameter)
    default = options[0] if options and asked is None else asked
    index = options.index(default) if default in options else None
    chosen = st.selectbox(label, options, index=index, placeholder="Choose one", width=WIDTH_PX)
    if chosen is None:
        return asked
    if chosen != asked:
        st.query_params[parameter] = chosen
    return chosen
