"""The learning rate as a pure function of the step in a phase, so that a resume needs no state of its own."""

from __future__ import annotations

import math
from typing import Literal

FINAL_SHARE = 0.01  # of the peak, at the end of a cosine


def learning_rate(
    step: int, steps: int, peak: float, kind: Literal["cosine", "constant"], warmup_steps: int = 0
) -> float:
    """Rate at `step` (from 0) of a phase of `steps`: linear warm-up, then half a cosine (Loshchilov & Hutter 2017)
    down to FINAL_SHARE of the peak, or constant."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if kind == "constant":
        return peak
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * (FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
