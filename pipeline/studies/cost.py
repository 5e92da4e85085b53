"""Cost of a study's students: multiply-adds counted in a forward pass, and the time of training steps.

Three ways to train are set side by side: on all patches, on cached tickets, and online as upstream does, with the
selector's whole forward pass (on all its blocks, without gradients) in every step.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ...artifacts_schema import Manifest, OptionError, read_manifest
from ...artifacts_schema.files import write_atomically
from ...artifacts_schema.thinning import refuse_adaptive
from ...stages.models.cost import count_gmacs, student_gmacs
from ...stages.models.dropping_vit import DroppingViT
from ...stages.models.families import create_student
from ...stages.models.registry import create_vit
from ...stages.models.student import PatchInput, Student, TokenLogits
from ...stages.options import CascadeOptions
from ...stages.runtime.device import device_name
from ...stages.runtime.distributed import process_group, resolve_device
from ...stages.runtime.precision import autocast
from ...stages.runtime.reporting import Reporter

_BACKWARD = 3  # a training step costs about three forward passes


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPlan:
    """Plan of what cost to measure: of a student, and of the stores whose tickets it is trained on."""

    model: str
    stores: tuple[str, ...]
    batch_size: int
    num_classes: int
    patch_input: PatchInput | None = None
    precision: str = "fp32"
    device: str = "auto"
    repeats: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRow:
    """Cost of one way to train. GMACs of one image: the student's forward pass, and the selector's where it runs
    in each step.

    `training_share` is GMACs of training over those of dense training (a step counts three forward passes of the
    student and one of the selector); `time_share` is the same of measured step times.
    """

    way: str
    num_keep: int
    student_gmacs: float
    selector_gmacs: float
    training_share: float
    step_s: float
    time_share: float


def measured_cost(plan: CostPlan, cache: Path, reporter: Reporter) -> dict[str, Any]:
    """Measures once; afterwards it is what `cache` says, so that a study gives the same report when it is run again."""
    with process_group(plan.device) as process:
        if process.is_main and not cache.exists():
            document = {**asdict(plan), "device": device_name(process.device), "rows": _measure(plan, reporter)}
            write_atomically(cache, (json.dumps(document, indent=1) + "\n").encode())
        process.barrier()
    found: dict[str, Any] = json.loads(cache.read_text())
    return found


def _measure(plan: CostPlan, reporter: Reporter) -> list[dict[str, Any]]:
    device = resolve_device(plan.device)
    manifests = [read_manifest(store) for store in plan.stores]
    reporter.message("measuring what a step costs")
    steps, gmacs = _ways(plan, manifests, device)
    seconds: dict[tuple[str, int], list[float]] = {way: [] for way in steps}
    for step in steps.values():
        step()
    reporter.start("timing steps", plan.repeats, "rounds")
    for _ in range(plan.repeats):
        for way, step in steps.items():
            seconds[way].append(_timed(step, device))
        reporter.advance(1)
    reporter.finish()
    median = {way: statistics.median(s) for way, s in seconds.items()}
    dense = next(iter(steps))
    rows = []
    for way, (student, selector) in gmacs.items():
        share = (_BACKWARD * student + selector) / (_BACKWARD * gmacs[dense][0])
        row = CostRow(
            way=way[0],
            num_keep=way[1],
            student_gmacs=student,
            selector_gmacs=selector,
            training_share=share,
            step_s=median[way],
            time_share=median[way] / median[dense],
        )
        rows.append(asdict(row))
    return rows


_Ways = tuple[dict[tuple[str, int], Callable[[], None]], dict[tuple[str, int], tuple[float, float]]]


def _ways(plan: CostPlan, manifests: list[Manifest], device: torch.device) -> _Ways:
    """Training steps and GMACs (student, selector) by (way, patches kept); dense first."""
    steps: dict[tuple[str, int], Callable[[], None]] = {}
    gmacs: dict[tuple[str, int], tuple[float, float]] = {}
    small_dense = plan.patch_input == "small-dense"
    image_px = manifests[0].image_px if manifests else None
    whole = create_student(
        plan.model, patch_input=plan.patch_input, image_px=image_px, num_classes=plan.num_classes
    ).to(device)
    num_patches = whole.geometry.num_patches
    dense = ("dense", num_patches)
    steps[dense], gmacs[dense] = _step(plan, whole, None, None, device), (student_gmacs(whole, None), 0.0)
    for store, manifest in zip(plan.stores, manifests, strict=True):
        refuse_adaptive(manifest, str(store), "this study prices tickets of one number")
    for manifest in sorted(manifests, key=lambda m: -m.num_keep):
        student = whole
        if small_dense:
            student = create_student(
                plan.model,
                num_keep=manifest.num_keep,
                patch_input=plan.patch_input,
                image_px=image_px,
                num_classes=plan.num_classes,
            ).to(device)
        selector = _selector(manifest, device)
        student_cost = student_gmacs(student, manifest.num_keep)
        selector_cost = _selector_gmacs(selector, device)
        for way, runs in (("cached tickets", None), ("online (upstream)", selector)):
            key = (way, manifest.num_keep)
            steps[key] = _step(plan, student, manifest.num_keep, runs, device)
            gmacs[key] = (student_cost, selector_cost if runs is not None else 0.0)
    return steps, gmacs


def _selector(manifest: Manifest, device: torch.device) -> DroppingViT:
    s = manifest.selector
    if s.name is not None or s.model is None:
        raise OptionError(f"the cost of running {s.title} online is not known; give stores of the cascade")
    cascade = CascadeOptions(ratio=s.ratio, keep_rate=s.keep_rate, drop_blocks=tuple(s.drop_blocks))
    selector = DroppingViT(create_vit(s.model, image_px=manifest.image_px), s.model, cascade=cascade)
    return selector.eval().requires_grad_(False).to(device)


def _selector_gmacs(selector: DroppingViT, device: torch.device) -> float:
    g = selector.geometry
    image = torch.zeros(1, 1 if g.mode == "L" else 3, g.image_px, g.image_px, device=device)
    return count_gmacs(lambda: selector(image))


def _step(
    plan: CostPlan, student: Student, num_keep: int | None, selector: DroppingViT | None, device: torch.device
) -> Callable[[], None]:
    """A training step on ready tensors, with the selector's forward pass in it where it is given."""
    g = student.geometry
    generator = torch.Generator().manual_seed(0)
    shape = (plan.batch_size, 1 if g.mode == "L" else 3, g.image_px, g.image_px)
    images = torch.randn(shape, generator=generator).to(device)
    labels = torch.randint(0, plan.num_classes, (plan.batch_size,), generator=generator).to(device)
    scores = torch.rand(plan.batch_size, g.num_patches, generator=generator)
    keep = None if num_keep is None else scores.argsort(1)[:, :num_keep].sort(1).values.to(device)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-6)

    def step() -> None:
        student.train()
        if selector is not None:
            with torch.no_grad(), autocast(device, plan.precision):
                selector(images)
        with autocast(device, plan.precision):
            output = student(images, keep)
            logits = output.image + output.tokens.mean(1) if isinstance(output, TokenLogits) else output
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def _timed(step: Callable[[], None], device: torch.device) -> float:
    import time

    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
