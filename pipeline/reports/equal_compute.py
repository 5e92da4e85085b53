"""Accuracy against arithmetic: of each arm of a study, the best other one that costs no more to train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ...stages.analysis.statistics import Paired, paired

_SLACK = 1.1  # a grid has squares alone: whole pictures of about K patches cost up to so much more


class EqualCompute(NamedTuple):
    """An arm, and the best other arm at no more arithmetic: `other` of none, and `difference` where they share no seed,
    are None.
    """

    row: Mapping[str, Any]
    other: Mapping[str, Any] | None
    difference: Paired | None


def first_tests(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Rows of a study's results: each arm by the test that comes first, the one that it is validated on, where the
    arithmetic of its training is known.
    """
    first = {row["arm"]: row for row in reversed(document["results"])}
    return [row for row in reversed(first.values()) if row.get("tflops") is not None]


def equal_compute(document: Mapping[str, Any]) -> list[EqualCompute]:
    """All arms, the cheapest first."""
    rows = sorted(first_tests(document), key=lambda row: float(row["tflops"]))
    return [_beside(row, [r for r in rows if r is not row]) for row in rows]


def _beside(row: Mapping[str, Any], others: list[Mapping[str, Any]]) -> EqualCompute:
    no_dearer = [r for r in others if r["tflops"] <= row["tflops"] * _SLACK]
    other = max(no_dearer, key=lambda r: float(r["mean"]), default=None)
    shares_seed = other is not None and set(row["top1"]) & set(other["top1"])
    return EqualCompute(row, other, paired(row["top1"], other["top1"]) if other and shares_seed else None)
