"""Adaptive tickets in training and testing: what takes its number of patches from them, and what cannot."""

from __future__ import annotations

from ...artifacts_schema import Manifest, OptionError
from ..data.student_stream import StreamConfig
from ..models.student import Student
from ..options import Control, EvalProtocol, Subset


def takes_counts(manifest: Manifest, shown: Control | EvalProtocol | Subset) -> bool:
    """Tells whether images that are shown so keep as many patches as their own tickets: tickets, and random and central
    subsets. Pictures that are resized, and the student's own choice, have about the mean.
    """
    return manifest.adaptive is not None and shown not in ("dense", "resize", "own")


def check_counts(stream: StreamConfig, student: Student, model: str, tickets: str, *, compiled: bool = False) -> None:
    """Refuses adaptive tickets where images need equal numbers of patches.

    Raises:
        OptionError
    """
    if not stream.own_counts:
        return
    reason = None
    if not student.takes_counts:
        reason = f"{model} takes as many patches of every image"
    elif stream.view_mode == "warp":
        reason = "of a fresh crop (`view_mode='warp'`) nobody knows how many it needs"
    elif compiled:
        reason = "`compile` would compile every batch's numbers anew"
    if reason is not None:
        raise OptionError(
            f"{tickets} has adaptive tickets, and {reason}; select with `ratio` in place of `budget`"
            + (", or leave `compile` out" if compiled else "")
        )
