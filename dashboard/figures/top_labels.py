"""The most probable labels of one image as bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import altair as alt

BAR_HEIGHT_PX = 30


@dataclass(frozen=True)
class Bar:
    """A label and its probability."""

    label: str
    probability: float
    text: str


def bars(top: Sequence[tuple[str, float]]) -> list[Bar]:
    """Best first, as the model gave them."""
    return [Bar(label, probability, f"{probability:.1%}") for label, probability in top]


def top_labels_chart(items: Sequence[Bar]) -> alt.LayerChart:
    """Horizontal bars on a scale from 0 to 1."""
    base = alt.Chart(alt.Data(values=[asdict(item) for item in items])).encode(
        x=alt.X("probability:Q", scale=alt.Scale(domain=[0, 1]), axis=None),
        y=alt.Y(
            "label:N", sort=[item.label for item in items], title=None, axis=alt.Axis(labelLimit=220, domain=False)
        ),
    )
    bar = base.mark_bar(color="#2f6fde", cornerRadiusEnd=3, height=16)
    number = base.mark_text(align="left", dx=5, fontSize=12, color="#8a94a6").encode(text="text:N")
    return alt.layer(bar, number).properties(height=BAR_HEIGHT_PX * max(1, len(items)))
