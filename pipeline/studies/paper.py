"""The paper's rows on ImageNet, one function each: for whoever has the data and the GPUs.

None of them has been run by the authors of dataltt. What a row should come to is the paper's claim; the figures named
below are published ones of the dense models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...stages.checkpoints import find_weights
from ...stages.evaluate import EvalProtocol
from ...stages.fit_selector import FitSelectorConfig, fit_selector
from ...stages.label import LabelConfig
from ...stages.models.student import PatchInput
from ...stages.reporting import Reporter
from ...stages.run_log import CONFIG_FILE
from ...stages.select import SelectConfig
from ...stages.train_config import TrainConfig
from .arms import Tickets, claims, paper_arms
from .cost import CostPlan
from .engine import Study, StudyInputs, exists, label_store, make_store

RECIPES = (
    "paper_deit_s_095",
    "paper_deit_s_09",
    "paper_deit_s_085",
    "paper_deit_s_08",
    "paper_deit_s_075",
    "paper_deit_s_08_tiny_selector",
    "paper_deit_s_08_lr_1e_3",
    "paper_deit_t_08",
    "paper_deit_b_08",
    "paper_deit_b_576_08",
    "paper_lvvit_s_08",
    "paper_lvvit_t_08",
    "paper_swin_t_zero_08",
    "paper_swin_t_small_dense",
    "paper_swin_s_small_dense",
    "paper_swin_b_small_dense",
    "paper_resnet50_08",
)
NUM_VIEWS = 16
EPOCHS: int | None = None  # None: the family's, 300 of ViTs
FIT_EPOCHS = 30
LABELLER = "dm_nfnet_f6.dm_in1k"  # what the paper's LV-ViT students learned from
_VITS: tuple[EvalProtocol, ...] = ("ticket", "random", "dense", "own")
_OTHERS: tuple[EvalProtocol, ...] = ("ticket", "random", "dense")
_PACKED: tuple[EvalProtocol, ...] = ("ticket", "random")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """What the rows differ in."""

    name: str
    student: str
    keep_rate: float | None = None
    ratio: float | None = None
    selector: str = "deit_s"
    lr: float = 5e-4
    swin_input: PatchInput | None = None
    tests: Sequence[EvalProtocol] = _VITS
    labels: bool = False


def paper_deit_s_095(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-S at keep rate .95 (170 of 196 patches): as paper_deit_s_08."""
    return _study(_Row(name="paper_deit_s_095", student="deit_s", keep_rate=0.95), inputs, reporter)


def paper_deit_s_09(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-S at keep rate .9 (144 of 196 patches): as paper_deit_s_08."""
    return _study(_Row(name="paper_deit_s_09", student="deit_s", keep_rate=0.9), inputs, reporter)


def paper_deit_s_085(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-S at keep rate .85 (121 of 196 patches): as paper_deit_s_08."""
    return _study(_Row(name="paper_deit_s_085", student="deit_s", keep_rate=0.85), inputs, reporter)


def paper_deit_s_08(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-S at keep rate .8 (101 of 196 patches) on ImageNet, with a DeiT-S selector.

    Paper: Shen et al. 2023, main comparison of (a), (b) and (c) for DeiT-S; `random-matched` is its longer training of
    (b), 300 / r³ = 586 epochs.
    Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_s_08 --shards 'train-{000000..001023}.tar'
    --test-shards 'val-{000000..000063}.tar' --seeds 0 --precision bf16 --batch-size 128
    Stages: fit-selector (30 epochs from timm's DeiT-S), select with 16 drawn views per image, then dense, ticket,
    random, fixed-random, inverse and random-matched, 300 epochs each, DeiT's recipe.
    Cost: in units of dense training (4.60 GMACs per image): dense 1, each of ticket, random, fixed-random, inverse .50,
    random-matched 1, the selector's fine-tuning about .08, selection of 16 views about .01.
    To expect: the paper's claim (a) ≈ (c) > (b). The published dense DeiT-S has 79.8 % top-1.
    """
    return _study(_Row(name="paper_deit_s_08", student="deit_s", keep_rate=0.8), inputs, reporter)


def paper_deit_s_075(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-S at keep rate .75 (84 of 196 patches): as paper_deit_s_08."""
    return _study(_Row(name="paper_deit_s_075", student="deit_s", keep_rate=0.75), inputs, reporter)


def paper_deit_s_08_tiny_selector(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-S at keep rate .8 on the tickets of a DeiT-Tiny: the paper's ablation of the selector's size.

    As paper_deit_s_08 otherwise. To expect: (a) close to that of the DeiT-S selector.
    """
    row = _Row(name="paper_deit_s_08_tiny_selector", student="deit_s", keep_rate=0.8, selector="deit_t")
    return _study(row, inputs, reporter)


def paper_deit_s_08_lr_1e_3(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-S at keep rate .8, learning rate 1e-3: the paper's ablation of the learning rate.

    As paper_deit_s_08 otherwise. To expect: the same order of (a), (b) and (c).
    """
    row = _Row(name="paper_deit_s_08_lr_1e_3", student="deit_s", keep_rate=0.8, lr=1e-3)
    return _study(row, inputs, reporter)


def paper_deit_t_08(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-T at keep rate .8: as paper_deit_s_08. The published dense DeiT-T has 72.2 % top-1."""
    return _study(_Row(name="paper_deit_t_08", student="deit_t", keep_rate=0.8), inputs, reporter)


def paper_deit_b_08(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-B at keep rate .8: as paper_deit_s_08. The published dense DeiT-B has 81.8 % top-1."""
    return _study(_Row(name="paper_deit_b_08", student="deit_b", keep_rate=0.8), inputs, reporter)


def paper_deit_b_576_08(inputs: StudyInputs, reporter: Reporter) -> Study:
    """The 576-wide DeiT-B at keep rate .8: as paper_deit_s_08. There is no published dense figure."""
    return _study(_Row(name="paper_deit_b_576_08", student="deit_b_576", keep_rate=0.8), inputs, reporter)


def paper_lvvit_s_08(inputs: StudyInputs, reporter: Reporter) -> Study:
    """LV-ViT-S at keep rate .8, token labels by NFNet-F6, an LV-ViT-S selector (--checkpoint; drops at 4, 8, 12).

    Paper: Shen et al. 2023, comparison of (a), (b) and (c) for LV-ViT.
    Command: as paper_deit_s_08, with --checkpoint lvit_s-26M-224-83.3.pth.tar (TokenLabeling's release).
    Cost: dense 6.55 GMACs per image, on tickets .58 of that; labelling 16 views by NFNet-F6 costs more than training,
    so lower --views where that matters.
    To expect: (a) ≈ (c) > (b). The published dense LV-ViT-S has 83.3 % top-1.
    """
    row = _Row(name="paper_lvvit_s_08", student="lvvit_s", keep_rate=0.8, selector="lvvit_s", labels=True)
    return _study(row, inputs, reporter)


def paper_lvvit_t_08(inputs: StudyInputs, reporter: Reporter) -> Study:
    """LV-ViT-T at keep rate .8, with token labels by NFNet-F6 and a DeiT-S selector: as paper_lvvit_s_08.

    To expect: (a) ≈ (c) > (b). The published dense LV-ViT-T has 79.1 % top-1.
    """
    row = _Row(name="paper_lvvit_t_08", student="lvvit_t", keep_rate=0.8, labels=True)
    return _study(row, inputs, reporter)


def paper_swin_t_zero_08(inputs: StudyInputs, reporter: Reporter) -> Study:
    """Swin-T, the other patches set to zero, tickets of a DeiT-S at keep rate .8. Nothing is saved.

    Paper: Shen et al. 2023, comparison for Swin. To expect: (a) > (b). The published dense Swin-T has 81.3 % top-1.
    """
    row = _Row(name="paper_swin_t_zero_08", student="swin_t", keep_rate=0.8, swin_input="zero", tests=_OTHERS)
    return _study(row, inputs, reporter)


def paper_swin_t_small_dense(inputs: StudyInputs, reporter: Reporter) -> Study:
    """Swin-T on 144 patches packed into 192 px (window 6), tickets of a DeiT-S (ratio .734).

    Paper: Shen et al. 2023, comparison for Swin. (b) is tested on tickets, which upstream's code does not do.
    Cost: .73 of dense Swin-T. To expect: (a) > (b). The published dense Swin-T has 81.3 % top-1.
    """
    return _swin_small_dense("paper_swin_t_small_dense", "swin_t", inputs, reporter)


def paper_swin_s_small_dense(inputs: StudyInputs, reporter: Reporter) -> Study:
    """Swin-S on 144 packed patches: as paper_swin_t_small_dense. The published dense Swin-S has 83.0 % top-1."""
    return _swin_small_dense("paper_swin_s_small_dense", "swin_s", inputs, reporter)


def paper_swin_b_small_dense(inputs: StudyInputs, reporter: Reporter) -> Study:
    """Swin-B on 144 packed patches: as paper_swin_t_small_dense. The published dense Swin-B has 83.5 % top-1."""
    return _swin_small_dense("paper_swin_b_small_dense", "swin_b", inputs, reporter)


def paper_resnet50_08(inputs: StudyInputs, reporter: Reporter) -> Study:
    """ResNet-50 with the other patches set to zero, 90 epochs, tickets of a DeiT-S at keep rate .8. Nothing is saved.

    Paper: upstream's ResNet variant. To expect: unknown; (a) − (b) says whether tickets matter to a CNN too. The
    published dense ResNet-50 has 76.1 % top-1 by its own recipe; here it is trained by DeiT's.
    """
    return _study(_Row(name="paper_resnet50_08", student="resnet50", keep_rate=0.8, tests=_OTHERS), inputs, reporter)


def _swin_small_dense(name: str, student: str, inputs: StudyInputs, reporter: Reporter) -> Study:
    row = _Row(name=name, student=student, ratio=144 / 196, swin_input="small-dense", tests=_PACKED)
    return _study(row, inputs, reporter)


def _study(row: _Row, inputs: StudyInputs, reporter: Reporter) -> Study:
    """Fits the selector, selects, labels where the student wants labels, and lists the arms."""
    inputs.needs(row.name, "shards", "test_shards")
    assert inputs.shards is not None
    assert inputs.test_shards is not None
    selector = _selector(row, inputs, reporter)
    base_select = SelectConfig(
        model=row.selector,
        checkpoint=selector,
        shards=inputs.shards,
        out=inputs.out / "train.zarr",
        ratio=row.ratio,
        keep_rate=row.keep_rate,
        augment="deit",
        views=inputs.views or NUM_VIEWS,
        ranks=True,
        workers=inputs.workers,
        device=inputs.device,
        precision=inputs.precision,
    )
    train = make_store(base_select, reporter)
    test = make_store(
        replace(
            base_select, shards=inputs.test_shards, out=inputs.out / "test.zarr", augment="none", views=1, ranks=False
        ),
        reporter,
    )
    if row.labels:
        config = LabelConfig(
            model=LABELLER,
            store=train,
            shards=inputs.shards,
            workers=inputs.workers,
            device=inputs.device,
            precision=inputs.precision,
        )
        label_store(config, reporter)
    base = _base(row, inputs, train if row.labels else None)
    tickets = [Tickets(label=_label(row), train=train, test=test)]
    return Study(
        name=row.name,
        arms=paper_arms(
            base,
            tickets,
            test_shards=inputs.test_shards,
            tests=row.tests,
            dense_on_tickets=row.swin_input != "small-dense",
        ),
        comparisons=claims([t.label for t in tickets]),
        test_shards=inputs.test_shards,
        cost=CostPlan(
            model=row.student,
            stores=(train,),
            batch_size=inputs.batch_size or 128,
            num_classes=1000,
            patch_input=row.swin_input,
            precision=inputs.precision,
            device=inputs.device,
        ),
        note={"model": row.student, "selector": row.selector, "views": inputs.views or NUM_VIEWS},
    )


def _label(row: _Row) -> str:
    return f"r{row.keep_rate:g}" if row.keep_rate is not None else f"{row.ratio:.3f}"


def _selector(row: _Row, inputs: StudyInputs, reporter: Reporter) -> Path:
    """Fine-tunes the selector with token dropping, once, from --checkpoint or timm's pretrained weights."""
    out = inputs.out / "selector"
    assert inputs.shards is not None
    config = FitSelectorConfig(
        model=row.selector,
        checkpoint=inputs.checkpoint,
        shards=inputs.shards,
        val_shards=inputs.test_shards,
        out=out,
        ratio=row.ratio,
        keep_rate=row.keep_rate,
        epochs=FIT_EPOCHS,
        batch_size=inputs.batch_size or 128,
        workers=inputs.workers,
        device=inputs.device,
        precision=inputs.precision,
        resume=exists(out / CONFIG_FILE, inputs.device),
    )
    fit_selector(config, reporter)
    return find_weights(out)


def _base(row: _Row, inputs: StudyInputs, labelled_store: str | None) -> TrainConfig:
    """DeiT's recipe, which is TrainConfig's defaults, for every arm."""
    return TrainConfig(
        out=inputs.out,
        shards=inputs.shards,
        model=row.student,
        tickets=labelled_store,
        swin_input=row.swin_input,
        epochs=EPOCHS,
        lr=row.lr,
        batch_size=inputs.batch_size or 128,
        precision=inputs.precision,
        workers=inputs.workers,
        device=inputs.device,
    )
