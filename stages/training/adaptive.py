"""Adaptive tickets in training and testing: what takes its number of patches from them, and what cannot."""

from __future__ import annotations

from ...artifacts_schema import Manifest
from ...artifacts_schema.thinning import refuse_adaptive
from ..data.stream_config import StreamConfig
from ..models.student import Student
from ..options import Control, EvalProtocol, Subset


def takes_counts(manifest: Manifest, shown: Control | EvalProtocol | Subset) -> bool:
    """Tells whether images that are shown so keep as many patches as their own tickets: tickets, and random and central
    subsets. Pictures that are resized, and the student's own choice, have about the mean.
    """
    return manifest.adaptive is not None and shown not in ("dense", "resize", "own")


def check_counts(
    manifest: Manifest, tickets: str, stream: StreamConfig, student: Student, model: str, *, compiled: bool = False
) -> None:
    """Refuses adaptive tickets where images need equal numbers of patches.

    Raises:
        OptionError
    """
    if not stream.own_counts:
        return
    if not student.takes_counts:
        refuse_adaptive(manifest, tickets, f"{model} takes equally many patches of every image")
    if stream.view_mode == "warp" or (stream.view_mode == "static" and stream.view.kind != "center"):
        refuse_adaptive(manifest, tickets, "how many patches the views of this `view_mode` need, they do not say")
    if compiled:
        refuse_adaptive(manifest, tickets, "`compile` (leave it out) would compile the student anew for every batch")
