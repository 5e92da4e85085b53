"""Stage one's and stage two's arithmetic, on ready tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from ...stages.distributed import resolve_device
from ...stages.evaluate import autocast
from ...stages.models.cascade import default_drop_blocks, keep_counts
from ...stages.models.pruned_vit import TokenPrunedViT
from ...stages.models.registry import create_vit
from ...stages.models.selector import TicketSelector
from ...stages.reporting import Reporter
from .timing import BenchRow, device_name, interleaved, ratio_row

SELECT_GOAL, TRAIN_GOAL = 1.45, 0.90


def bench_select(*, device: str, precision: str, batch_size: int, repeats: int, reporter: Reporter) -> list[BenchRow]:
    """Selection by DeiT-Tiny at keep rate .8 against a plain timm forward of the same model, precision and batch."""
    where = resolve_device(device)
    vit = create_vit("deit_t").eval().to(where)
    depth = len(vit.blocks)
    selector = TicketSelector(vit, default_drop_blocks(depth), keep_counts(196, ratio=None, keep_rate=0.8))
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


def bench_train(*, device: str, precision: str, batch_size: int, repeats: int, reporter: Reporter) -> list[BenchRow]:
    """A DeiT-Small training step on half the patches against a dense one, over the ratio of their FLOPs."""
    where = resolve_device(device)
    student = TokenPrunedViT(create_vit("deit_s")).to(where).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-6)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 3, 224, 224, generator=generator).to(where)
    labels = torch.randint(0, 1000, (batch_size,), generator=generator).to(where)
    num_keep = keep_counts(196, ratio=0.5, keep_rate=None)[-1]
    keep = torch.rand(batch_size, 196, generator=generator).argsort(1)[:, :num_keep].to(where)

    def step(keep_indices: torch.Tensor | None) -> None:
        with autocast(where, precision):
            loss = torch.nn.functional.cross_entropy(student(images, keep_indices).float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        _wait(where)

    dense_flops, ticket_flops = _flops(lambda: step(None)), _flops(lambda: step(keep))
    dense_s, ticket_s = interleaved(
        lambda: step(None), lambda: step(keep), repeats=repeats, reporter=reporter, name="bench train"
    )
    return [
        ratio_row(
            "train: dense step / ticket step, over their FLOPs (DeiT-Small, ratio .5)",
            dense_s,
            ticket_s,
            goal=TRAIN_GOAL,
            divisor=dense_flops / ticket_flops,
            batch_size=batch_size,
            precision=precision,
            speed_up=sorted(dense_s)[len(dense_s) // 2] / sorted(ticket_s)[len(ticket_s) // 2],
            flops_ratio=dense_flops / ticket_flops,
            device=device_name(where),
        )
    ]


def _flops(run: Callable[[], None]) -> int:

    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
