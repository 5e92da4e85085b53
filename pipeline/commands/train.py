"""dataltt train"""

from __future__ import annotations

from ...stages.training.config import TrainConfig
from ..ends import end_run
from ..options import takes
from ..progress import reporting


@takes(TrainConfig)
def train(config: TrainConfig, as_json: bool) -> None:
    """Stage two: train a student on shards joined with their tickets.

    Example: dataltt train --tickets store.zarr --model deit_s --out runs/deit_s_50 --val-shards 'imagenet/val-*.tar'
    --val-tickets val.zarr

    Controls: --control random draws K patches anew for every image and step, fixed-random once per image, inverse
    takes the K lowest-ranked (needs ranks), center the K central ones, resize all of a view that is made so small that
    it has about K, dense all. They are shown the same views, mixed in the same way.

    Views: a ticket belongs to one view of an image. replay shows the views that the selector saw, view (epoch mod V)
    in each epoch. static shows the centre view, mirrored and recoloured but never cropped. warp crops afresh and lets
    ranks follow, approximately. What each costs and buys: docs/views.md.
    """
    from ...stages.training.train import train as run

    with reporting() as reporter:
        result = run(config, reporter)
    end_run(result, as_json)
