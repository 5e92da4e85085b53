"""dataltt bake"""

from __future__ import annotations

from ...stages.baking.config import BakeConfig
from ..ends import is_said, say
from ..options import takes
from ..progress import reporting


@takes(BakeConfig)
def bake(config: BakeConfig, as_json: bool) -> None:
    """Write the patches that training reads as a data set of its own, so that nothing is decoded while training.

    Each stored view becomes a set of WebDataset shards. Runs in one process, or in many under torchrun. Interrupted,
    the same command goes on where it stopped. The pixels stay under the licence of the images.

    Example: dataltt bake --tickets store.zarr --patches kept --encoding jpeg --out baked
    """
    from ...artifacts_schema.space import shown_bytes
    from ...stages.baking.bake import bake as run

    with reporting() as reporter:
        baked = run(config, reporter)
    if baked is None or is_said(as_json, lambda: {"baked": str(config.out), **baked.to_json()}):
        return
    each = baked.num_bytes / (baked.num_images * baked.num_views)
    say(
        f"{config.out}: {baked.num_baked} of {baked.tickets.num_patches} patches of {baked.num_images} images in "
        f"{baked.num_views} view(s), {shown_bytes(baked.num_bytes)}, {shown_bytes(each)} each; next: "
        f"dataltt train --baked {config.out}"
    )
