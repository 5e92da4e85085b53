"""The loss of students with an auxiliary head: every kept token learns what stands in its place.

Upstream un-mixes token outputs by reshaping them into a square, which pruned tokens do not fill. Here the label map is
mixed as the tokens are, position by position, and gathered by the same ticket. Source: Jiang et al. 2021, equation 3.

Letters: B batch, P patches of the grid, K kept patches, C classes, k labels per patch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..grid import inside_box
from ..models.student import TokenLogits
from .mixing import Mixed

TOKEN_LOSS_WEIGHT = 0.5  # β of LV-ViT


class TokenTargets(NamedTuple):
    """The most probable classes of each patch and their probabilities."""

    ids: Tensor  # int64 [B, K, k]
    scores: Tensor  # float32 [B, K, k], each patch's sum to 1


def image_targets(labels: Tensor, num_patches: int) -> TokenTargets:
    """Targets where there are no token labels: the image's label for each of its patches."""
    ids = labels[:, None, None].expand(-1, num_patches, 1)
    return TokenTargets(ids, torch.ones(ids.shape, device=labels.device))


def shown_targets(targets: TokenTargets, mixed: Mixed, grid: tuple[int, int]) -> TokenTargets:
    """Targets of the tokens that a student is shown: mixed as they are, then gathered by the same ticket.

    Args:
        targets: on the whole grid, [B, P, k]. Scores need not sum to 1: they are those of the top classes.
        mixed: how the batch was mixed.
        grid: of the patches.

    Returns:
        [B, K, k] in the order of `mixed.keep_indices`, scores divided by their sum.
    """
    ids, scores = targets
    if mixed.box is not None:
        inside = inside_box(mixed.box, grid, ids.device)[:, None]
        ids, scores = torch.where(inside, ids.flip(0), ids), torch.where(inside, scores.flip(0), scores)
    if mixed.keep_indices is not None:
        where = mixed.keep_indices[:, :, None].expand(-1, -1, ids.shape[2])
        ids, scores = ids.gather(1, where), scores.gather(1, where)
    return TokenTargets(ids, scores / scores.sum(dim=2, keepdim=True).clamp_min(1e-6))


def token_loss(logits: Tensor, targets: TokenTargets, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of token logits float [B, K, C] with their (smoothed) targets."""
    log_probabilities = F.log_softmax(logits.float(), dim=2)
    own = -(targets.scores * log_probabilities.gather(2, targets.ids)).sum(dim=2)
    return ((1 - smoothing) * own - smoothing * log_probabilities.mean(dim=2)).mean()


def both_losses(
    logits: TokenLogits, image_targets: Tensor, token_targets: TokenTargets, smoothing: float = 0.0
) -> Tensor:
    """Image loss plus half of the token loss; `image_targets` are soft labels float [B, C]."""
    image = -(image_targets * F.log_softmax(logits.image.float(), dim=1)).sum(dim=1).mean()
    return image + TOKEN_LOSS_WEIGHT * token_loss(logits.tokens, token_targets, smoothing)
