"""dataltt label"""

from __future__ import annotations

from ...stages.selection.config import LabelConfig
from ..ends import is_said, say
from ..options import takes
from ..progress import reporting


@takes(LabelConfig)
def label(config: LabelConfig, as_json: bool) -> None:
    """Add token labels to a ticket store: per patch, the five likeliest classes of a strong network (for LV-ViT).

    The network sees the very views that the tickets are of. Runs in one process, or in many under torchrun.
    Interrupted, the same command goes on where it stopped; the store is changed only when all labels are there.

    Example: dataltt label --tickets store.zarr --model resnet50
    """
    from ...artifacts_schema import TicketStore
    from ...stages.selection.label import label as run

    with reporting() as reporter:
        manifest = run(config, reporter)
    if manifest is None:
        return  # not rank 0
    tickets = config.tickets
    stored = TicketStore.open(tickets).num_stored_bytes()
    bytes_per_image = sum(stored[f"token_labels/{name}"] for name in ("ids", "scores")) / manifest.num_images
    document = {"store": tickets, "token_label_bytes_per_image": bytes_per_image, **manifest.to_json()}
    if is_said(as_json, lambda: document):
        return
    views = f"{manifest.num_views} view{'s' if manifest.num_views > 1 else ''}"
    say(
        f"{tickets}: token labels of {manifest.num_images} images in {views}, {bytes_per_image:.0f} bytes per image; "
        f"next: dataltt train --model lvvit_t --tickets {tickets}"
    )
