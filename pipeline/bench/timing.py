"""Interleaved repeats and the ratio of their medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...stages.runtime.reporting import Reporter


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRow:
    """Figure of a benchmark: what it is, its value, the goal, and what it was computed from."""

    name: str
    value: float
    goal: str
    ok: bool
    detail: dict[str, Any]


def interleaved(
    first: Callable[[], None], second: Callable[[], None], *, repeats: int, reporter: Reporter, name: str
) -> tuple[list[float], list[float]]:
    """Seconds of each call, in turn (A B B A A B …) after one warm-up of each, so that drift hits both alike."""
    first()
    second()
    seconds: tuple[list[float], list[float]] = ([], [])
    reporter.start(name, repeats, "rounds")
    for i in range(repeats):
        for which in ((0, 1), (1, 0))[i % 2]:
            started = time.perf_counter()
            (first, second)[which]()
            seconds[which].append(time.perf_counter() - started)
        reporter.advance(1)
    reporter.finish()
    return seconds


def ratio_row(
    name: str, slow_s: list[float], fast_s: list[float], *, goal: float | None, divisor: float = 1.0, **detail: Any
) -> BenchRow:
    """median(slow) / median(fast) / divisor, which should be at least `goal`, if there is one."""
    slow, fast = statistics.median(slow_s), statistics.median(fast_s)
    value = slow / fast / divisor
    pairs = sorted(a / b / divisor for a, b in zip(slow_s, fast_s, strict=True))
    return BenchRow(
        name=name,
        value=value,
        goal="" if goal is None else f"≥ {goal}",
        ok=goal is None or value >= goal,
        detail={
            "median_s": [slow, fast],
            "paired_min_median_max": [pairs[0], statistics.median(pairs), pairs[-1]],
            "repeats": len(slow_s),
            **detail,
        },
    )
