"""dataltt select"""

from __future__ import annotations

from ...stages.selection.config import SelectConfig
from ..ends import is_said, say, warn
from ..options import takes
from ..progress import reporting


@takes(SelectConfig)
def select(config: SelectConfig, as_json: bool) -> None:
    """Stage one: run a ticket selector once over the shards and write a ticket store.

    Runs in one process, or in many under torchrun. Interrupted, the same command goes on where it stopped.

    A ticket belongs to one view. The centre view's (the default) does not fit random crops, so training on it never
    crops; to train with crops, select views that are drawn by a policy. docs/views.md says which to choose.

    Example: dataltt select --model deit_b --ratio 0.5 --shards 'imagenet/train-{000000..001023}.tar'
    """
    from ...artifacts_schema import TicketStore
    from ...artifacts_schema.thinning import kept_in_words
    from ...stages.selection.part_checks import first_unlabelled
    from ...stages.selection.select import select as run

    with reporting() as reporter:
        manifest = run(config, reporter)
    out = config.out
    if manifest is None or is_said(as_json, lambda: {"store": str(out), **manifest.to_json()}):
        return
    kept = kept_in_words(manifest)
    num_unlabelled, key = first_unlabelled(TicketStore.open(str(out)))
    model = "" if manifest.selector.model else " --model MODEL"  # there is none whose architecture a student could have
    then = "" if num_unlabelled else f"; next: dataltt train --tickets {out}{model}"
    say(f"{out}: {kept} of {manifest.num_images} images{then}")
    if num_unlabelled:
        warn(
            f"{num_unlabelled} of {manifest.num_images} images have no label (.cls), the first of them {key!r}; "
            "training refuses them, so repack the shards with labels, or without these images"
        )
    if manifest.skipped:
        warn(
            f"{len(manifest.skipped)} image(s) could not be decoded and have no ticket; the manifest lists them "
            f"(dataltt inspect {out} --json)"
        )
