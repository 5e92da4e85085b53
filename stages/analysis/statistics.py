"""Means over seeds, and differences of arms that share their seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

CONFIDENCE = 0.95
EQUAL_WITHIN = 1.0  # points of top-1: what "as good as" may lose

Claim = Literal["above", "no worse"]
Verdict = Literal["shown", "not shown", "contradicted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """The mean difference over seeds, and its 95 % interval by Student's t (None with one seed)."""

    mean: float
    low: float | None
    high: float | None
    num_seeds: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:+.2f}"
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Paired:
    """a − b, seed by seed.

    Args:
        a, b: a figure by seed; seeds that only one of them has are left out.

    Raises:
        ValueError: they share no seed.
    """
    seeds = sorted(set(a) & set(b))
    if not seeds:
        raise ValueError("no seed in common")
    differences = [a[s] - b[s] for s in seeds]
    mean = statistics.fmean(differences)
    if len(seeds) < 2:
        return Paired(mean=mean, low=None, high=None, num_seeds=1)
    from scipy.stats import t

    half = float(t.ppf((1 + CONFIDENCE) / 2, len(seeds) - 1)) * statistics.stdev(differences) / len(seeds) ** 0.5
    return Paired(mean=mean, low=mean - half, high=mean + half, num_seeds=len(seeds))


def verdict(found: Paired, claim: Claim) -> Verdict:
    """Says what a paired difference, in points, tells of a claim.

    Args:
        claim: "above": the difference is above 0. "no worse": what was subtracted from loses at most `EQUAL_WITHIN`
            to the first, so the difference is below that.

    Returns:
        "shown" or "contradicted" where the whole interval says so, else (or with one seed) "not shown".
    """
    if found.low is None or found.high is None:
        return "not shown"
    if claim == "above":
        return "shown" if found.low > 0 else "contradicted" if found.high < 0 else "not shown"
    return "shown" if found.high < EQUAL_WITHIN else "contradicted" if found.low > EQUAL_WITHIN else "not shown"


def spread(values: Mapping[int, float]) -> tuple[float, float | None]:
    """Mean and standard deviation (None with one seed) over seeds."""
    return statistics.fmean(values.values()), statistics.stdev(values.values()) if len(values) > 1 else None


def lottery_conclusion(document: Mapping[str, Any]) -> str:
    """Says in one sentence what a weight lottery found: whether the ticket beats the same mask with fresh weights."""
    overall = Paired(**document["all_rounds"]["ticket_minus_fresh"])
    each = [Paired(**row["ticket_minus_fresh"]) for row in document["rounds"] if row["ticket_minus_fresh"]]
    what = f"over {len(each)} round(s), ticket − fresh is {overall} points of top-1"
    if overall.low is None or overall.high is None:
        return f"One seed only: {what}, and whether that is more than chance takes more seeds."
    above = sum(d.low is not None and d.low > 0 for d in each)
    counted = f"taken singly, it lies above 0 in {above} of {len(each)} rounds"
    if overall.low > 0:
        verdict, where = "beats", "lies above 0"
    elif overall.high < 0:
        verdict, where = "does worse than", "lies below 0"
    else:
        verdict, where = "is not shown to beat", "includes 0"
    return f"The ticket {verdict} the same mask with fresh weights: {what}; the 95 % interval {where} ({counted})."


def chance_iou(num_keep: int, num_patches: int) -> float:
    """The mean intersection over union of two random subsets of K of P patches.

    The intersection is hypergeometric: I patches are in both with probability C(K, I) C(P - K, K - I) / C(P, K), which
    goes as 1 / (I! (K - I)!² (P - 2K + I)!).
    """
    import numpy as np
    from scipy.special import gammaln

    shared = np.arange(max(0, 2 * num_keep - num_patches), num_keep + 1)
    one_only, neither = num_keep - shared, num_patches - 2 * num_keep + shared
    logs = -(gammaln(shared + 1) + 2 * gammaln(one_only + 1) + gammaln(neither + 1))  # up to what all share
    weights = np.exp(logs - logs.max())
    return float((weights * shared / (num_keep + one_only)).sum() / weights.sum())
