"""Side-by-side timing: several contenders do the same work in turn, in one process and one run; medians and ratios.

Times on a shared machine move; the ratio of medians taken in turn is what counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def in_turn(
    contenders: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each contender in each round; the order is reversed every other round. One round warms up.

    With `time.process_time` as the clock, work of this process that is bound to one core takes as long as it would
    on a core of its own, whatever else the machine does.
    """
    names = list(contenders)
    for name in names:
        contenders[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            started_s = clock()
            contenders[name]()
            seconds[name].append(clock() - started_s)
    return seconds


def report(title: str, seconds: dict[str, list[float]], reference: str, work: float, unit: str) -> None:
    """One line per contender: median seconds, work per second, and its speed as a multiple of the reference's."""
    base = statistics.median(seconds[reference])
    print(title)
    for name, values in seconds.items():
        median = statistics.median(values)
        spread = f"{min(values):.3f} to {max(values):.3f}"
        print(f"  {name:<34} {median:8.3f} s ({spread})  {work / median:10.1f} {unit}/s  × {base / median:.2f}")
