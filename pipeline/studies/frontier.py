"""Resolution against ratio at equal tokens: tickets of a large picture, or all of a small one."""

from __future__ import annotations

from ...artifacts_schema.thinning import ratio_of
from ...stages.runtime.reporting import Reporter
from .engine import Arm, Comparison, Evaluation, Study
from .inputs import StudyInputs
from .transfer import BATCH_SIZE, MODEL, PEAK_LR, tickets_of, transfer_recipe

PATCH_PX = 16  # of the model
EPOCHS = 3
# Of each number of tokens: the picture that has so many in all, and the larger ones whose tickets keep as many.
SIZES_PX: tuple[tuple[int, tuple[int, ...]], ...] = ((160, (224, 288)), (224, (288,)))


def frontier(inputs: StudyInputs, reporter: Reporter) -> Study:
    """Equal tokens, other pictures: a pretrained DeiT-Tiny fine-tuned on tickets of 224 and 288 px, and on all of less.

    Paper: none of its tables; whether a ticket of a larger picture is worth more than a smaller picture.
    Command: dataltt study frontier --shards 'photos/train-*.tar' --test-shards 'photos/test-*.tar' --checkpoint
    deit_tiny_patch16_224.safetensors --seeds 0,1,2,3,4
    Tickets: by the checkpoint, its position embeddings resampled, of the centre view.
    Arms: 100 tokens, as all of 160 px, 100 of 196 at 224 px, and 100 of 324 at 288 px; 196 tokens, as all of 224 px,
    and 196 of 324 at 288 px. Each is tested on what it is trained on.
    Cost: per seed 5 runs of 3 epochs, which is the arithmetic of 11 passes over the photographs at 224 px. Not in it,
    since it is done once: selecting, a pass over all photographs for each of the three stores, two of them at 288 px,
    which costs about twice a pass at 224 px. A larger picture costs more to decode and resize, whatever is kept of it.
    To expect: without training, 196 of 324 at 288 px do as well as all of 224 px; trained, all of the smaller picture
    is ahead, by 6 and 12 points at 100 tokens and by less than 2 at 196 (one seed).
    """
    inputs.needs("frontier", "shards", "test_shards", "checkpoint")
    assert inputs.test_shards is not None
    base = transfer_recipe(inputs, EPOCHS)
    arms: list[Arm] = []
    comparisons: list[Comparison] = []
    for small_px, larger in SIZES_PX:
        num_tokens = (small_px // PATCH_PX) ** 2
        group = f"{num_tokens}-tokens"
        plain = base.but(control="dense", image_px=small_px, val_shards=inputs.test_shards, test="dense")
        whole = Arm(
            name=f"{group}-all-of-{small_px}px", train=plain, tests=(Evaluation(on="dense", name="all"),), group=group
        )
        kept = [_kept(inputs, num_tokens, px, group, reporter) for px in larger]
        arms += [whole, *kept]
        comparisons += [
            Comparison(
                name=f"{arm.name} − all of {small_px} px",
                first=(arm.name, "ticket"),
                second=(whole.name, "all"),
                claim="above",
            )
            for arm in kept
        ]
    note = {"model": MODEL, "epochs": EPOCHS, "batch_size": inputs.batch_size or BATCH_SIZE, "peak_lr": PEAK_LR}
    return Study(
        name="frontier",
        arms=tuple(arms),
        comparisons=tuple(comparisons),
        test_shards=inputs.test_shards,
        note=note,
    )


def _kept(inputs: StudyInputs, num_tokens: int, image_px: int, group: str, reporter: Reporter) -> Arm:
    """Tickets of so many patches of a larger picture."""
    num_patches = (image_px // PATCH_PX) ** 2
    ratio = ratio_of(num_tokens, num_patches)
    tickets = tickets_of(inputs, ratio, reporter, image_px=image_px)
    train = transfer_recipe(inputs, EPOCHS).but(
        tickets=tickets.train, val_tickets=tickets.test, val_shards=inputs.test_shards, test="ticket"
    )
    return Arm(
        name=f"{group}-of-{num_patches}-at-{image_px}px",
        train=train,
        tests=(Evaluation(on="ticket", tickets=tickets.test),),
        stored=("tickets",),
        group=group,
    )
