"""Stage one's and stage two's arithmetic, on ready tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ...stages.models.cascade import default_drop_blocks, keep_counts
from ...stages.models.families import create_student, family_of
from ...stages.models.registry import create_vit
from ...stages.models.selector import TicketSelector
from ...stages.models.student import PatchInput, Student, TokenLogits
from ...stages.options import CascadeOptions
from ...stages.runtime.device import device_name
from ...stages.runtime.distributed import resolve_device
from ...stages.runtime.precision import autocast
from ...stages.runtime.reporting import Reporter
from ...stages.training.mixing import Mixed
from ...stages.training.token_loss import both_losses, image_targets, shown_targets
from .timing import BenchRow, interleaved, ratio_row

SELECT_GOAL = 1.45
TRAIN_GOALS, FAMILY_GOAL = {"deit_s": 0.90}, 0.85
_NUM_PATCHES, _SWIN_KEEP = 196, 144


def bench_select(*, device: str, precision: str, batch_size: int, repeats: int, reporter: Reporter) -> list[BenchRow]:
    """Selection by DeiT-Tiny at keep rate .8 against a plain timm forward of the same model, precision and batch."""
    where = resolve_device(device)
    vit = create_vit("deit_t").eval().to(where)
    depth = len(vit.blocks)
    selector = TicketSelector(vit, default_drop_blocks(depth), keep_counts(196, CascadeOptions(keep_rate=0.8)))
    images = torch.randn(batch_size, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(where)

    @torch.inference_mode()
    def dense() -> None:
        with autocast(where, precision):
            vit(images)
        _wait(where)

    def select() -> None:
        with autocast(where, precision):
            selector(images)
        _wait(where)

    dense_s, select_s = interleaved(dense, select, repeats=repeats, reporter=reporter, name="bench select")
    return [
        ratio_row(
            "select: images/s over a plain timm forward (DeiT-Tiny, keep rate .8)",
            dense_s,
            select_s,
            goal=SELECT_GOAL,
            batch_size=batch_size,
            precision=precision,
            images_per_s=[batch_size / sorted(s)[len(s) // 2] for s in (dense_s, select_s)],
            device=device_name(where),
        )
    ]


def bench_train(
    *, model: str = "deit_s", device: str, precision: str, batch_size: int, repeats: int, reporter: Reporter
) -> list[BenchRow]:
    """A student's training step on tickets against a dense one, over the ratio of their FLOPs.

    Half of the patches are kept; of a Swin 144 of 196, packed into a smaller image.
    """
    where = resolve_device(device)
    patch_input: PatchInput | None = "small-dense" if "small-dense" in family_of(model).inputs else None
    dense, ticket = (_student(model, patch_input, n, where) for n in (_NUM_PATCHES, _SWIN_KEEP))
    num_keep = _SWIN_KEEP if patch_input else keep_counts(_NUM_PATCHES, CascadeOptions(ratio=0.5))[-1]
    ticket = ticket if patch_input else dense
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 3, 224, 224, generator=generator).to(where)
    labels = torch.randint(0, 1000, (batch_size,), generator=generator).to(where)
    keep = torch.rand(batch_size, _NUM_PATCHES, generator=generator).argsort(1)[:, :num_keep].to(where)
    steps = [
        _training_step(student, images, kept, labels, where, precision)
        for student, kept in ((dense, None), (ticket, keep))
    ]
    dense_flops, ticket_flops = (_flops(step) for step in steps)
    dense_s, ticket_s = interleaved(*steps, repeats=repeats, reporter=reporter, name="bench train")
    saves = ticket.saves_compute
    return [
        ratio_row(
            f"train: dense step / ticket step, over their FLOPs ({model}, {num_keep} of {_NUM_PATCHES} patches"
            + (")" if saves else "; zeroed, which saves nothing)"),
            dense_s,
            ticket_s,
            goal=TRAIN_GOALS.get(model, FAMILY_GOAL),
            divisor=dense_flops / ticket_flops,
            batch_size=batch_size,
            precision=precision,
            speed_up=sorted(dense_s)[len(dense_s) // 2] / sorted(ticket_s)[len(ticket_s) // 2] if saves else None,
            flops_ratio=dense_flops / ticket_flops,
            device=device_name(where),
        )
    ]


def student_step(
    model: str, num_keep: int, device: torch.device, precision: str, batch_size: int
) -> Callable[[], None]:
    """A training step of a student of 196 patches on ready tensors, on `num_keep` of them."""
    student = _student(model, None, num_keep, device)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 3, 224, 224, generator=generator).to(device)
    labels = torch.randint(0, 1000, (batch_size,), generator=generator).to(device)
    keep = torch.rand(batch_size, _NUM_PATCHES, generator=generator).argsort(1)[:, :num_keep].to(device)
    return _training_step(student, images, keep, labels, device, precision)


def _student(model: str, patch_input: PatchInput | None, num_keep: int, device: torch.device) -> Student:
    return create_student(model, num_keep=num_keep, patch_input=patch_input).to(device).train()


def _training_step(
    student: Student,
    images: torch.Tensor,
    keep: torch.Tensor | None,
    labels: torch.Tensor,
    device: torch.device,
    precision: str,
) -> Callable[[], None]:
    """A step as stage two makes it: with token labels (the image's) where the student learns them."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-6)
    geometry, mixed = student.geometry, Mixed(images=images, keep_indices=keep, weights=images.new_ones(len(images)))
    targets = shown_targets(image_targets(labels, geometry.num_patches), mixed, geometry.grid)

    def step() -> None:
        with autocast(device, precision):
            output = student(images, keep)
        if isinstance(output, TokenLogits):
            loss = both_losses(output, mixed.targets(labels, 1000), targets)
        else:
            loss = torch.nn.functional.cross_entropy(output.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        _wait(device)

    return step


def _flops(run: Callable[[], None]) -> float:
    """FLOPs of a call, attention counted as matrix products: torch does not count a CPU's fused kernels."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
