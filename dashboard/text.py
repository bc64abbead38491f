"""Text of strangers (labels, file names, messages) made safe for Streamlit's Markdown."""

from __future__ import annotations

import re

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


def plain(text: str) -> str:
    """`text` on one line with every ASCII punctuation mark escaped: Markdown shows it and interprets nothing.

    Any such mark may be escaped by a backslash (CommonMark 0.31, section 2.4).
    """
    return _PUNCTUATION.sub(r"\\\1", " ".join(text.split()))
