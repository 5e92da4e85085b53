"""Token labels of the view that a student is shown.

Letters: B batch, V views, P patches of the grid, k classes per patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...artifacts_schema import LabelMaps, OptionError, View
from .drawing import DrawnView
from .join import Ticket
from .view_modes import ViewMode


class TokenLabels(NamedTuple):
    """The most probable classes of every patch, on the shown view's own grid, and their probabilities."""

    ids: Tensor  # int64 [B, P, k]
    scores: Tensor  # float32 [B, P, k]


def check_view_mode(mode: ViewMode, view: View, *, has_join: bool) -> None:
    """Refuses views that a store cannot have token labels of.

    Raises:
        OptionError
    """
    if not has_join:
        raise OptionError("token labels come from a ticket store; pass `tickets`")
    if mode == "warp" or (mode == "static" and view.kind != "center"):
        stored = "static" if view.kind == "center" else "replay"
        raise OptionError(
            f"token labels belong to the store's own views; train with `view_mode={stored!r}`, not {mode}"
        )


def shown_labels(ticket: Ticket, mode: ViewMode, shown: DrawnView, grid: tuple[int, int]) -> LabelMaps:
    """The label map of a replayed or static view, ids and scores [P, k]."""
    maps = ticket.token_labels
    assert maps is not None
    if mode == "replay":
        return LabelMaps(maps.ids[0], maps.scores[0])  # the join read this view alone
    # View 1, where there is one, is what the labelling network gave the mirrored image itself.
    number = 1 if shown.flip and len(maps.ids) > 1 else 0
    own = LabelMaps(maps.ids[number], maps.scores[number])
    return own.mirrored(grid) if shown.flip and number == 0 else own


def collate_labels(maps: Sequence[LabelMaps]) -> TokenLabels:
    """The maps of B views as tensors."""
    return TokenLabels(
        ids=torch.from_numpy(np.stack([m.ids for m in maps]).astype(np.int64)),
        scores=torch.from_numpy(np.stack([m.scores for m in maps]).astype(np.float32)),
    )
