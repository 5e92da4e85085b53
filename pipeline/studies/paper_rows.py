"""A table of the paper's rows on ImageNet: what each trains, how patches are selected for it, and what to expect.

paper_study.py runs a row, paper_describe.py puts it into words. What rows leave out is DeiT's recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...stages.models.families import family_of, resolve_input
from ...stages.models.student import PatchInput
from .arms import CONTROLS

NUM_PATCHES = 196  # of 224 px
LABELLER = "dm_nfnet_f6.dm_in1k"  # what the paper's LV-ViT students learned from


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperStudent:
    """A network of the table.

    Attributes:
        title: how texts call it.
        gmacs: of a forward pass, by the number of patches that it computes on. A packed Swin's are those of its size.
        top1: of training on all patches, in per cent, as published; None: not published.
        source: who has published it, as texts begin.
    """

    title: str
    gmacs: Mapping[int, float]
    top1: float | None
    source: str = "The published"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperRow:
    """A row of the paper.

    Attributes:
        name: of the study.
        student: the model that is trained.
        selector: the model that selects; None: the student's.
        fit: whether it is fine-tuned with token dropping first, else it selects as it is.
        checkpoint: what to give as the selector's weights; None: timm's pretrained ones will do.
        checkpoint_note: where that comes from.
        patch_input: how tickets reach the student; None: its family's usual way.
        augment: how views are drawn, DeiT's way or another.
        recipe: what differs from DeiT's recipe, by the names of the training options.
        fit_recipe: what differs in the selector's fine-tuning, by the names of its options.
        comparison: what of the paper this is; {student}, {selector} and {keep_rate} are filled in.
        scripts: upstream's, in its folder `scripts`; None: it has none.
        scripts_note: what is to be said of them, or of there being none.
        change: what sets the row apart from others of its student and keep rate.
        like: the row that an ablation varies.
        after: the row whose student selects for this one.
        expect: what should come out; {like} is filled in.
        cost_note: what comes on top of a row's usual cost.
    """

    name: str
    student: str
    keep_rate: float
    selector: str | None = None
    fit: bool = True
    checkpoint: str | None = None
    checkpoint_note: str = ""
    patch_input: PatchInput | None = None
    augment: str = "deit"
    recipe: Mapping[str, Any] = field(default_factory=dict)
    fit_recipe: Mapping[str, Any] = field(default_factory=dict)
    comparison: str = "(a), (b) and (c) on ImageNet, {student} at keep rate {keep_rate}"
    scripts: str | None = None
    scripts_note: str = ""
    change: str = ""
    like: str | None = None
    after: str | None = None
    expect: str = "(a) ≈ (c) > (b)."
    cost_note: str = ""

    @property
    def selector_name(self) -> str:
        """Name of the network that selects: the student itself where the row names none."""
        return self.selector or self.student


def controls_of(row: PaperRow) -> tuple[str, ...]:
    """The row's controls: all, but for smaller pictures where its student cannot be shown any (docs/method.md)."""
    fixed_size = family_of(row.student).name == "Swin" and resolve_input(row.student, row.patch_input) == "zero"
    is_left_out = fixed_size or family_of(row.student).learns_token_labels
    return tuple(name for name in CONTROLS if not (name == "resize" and is_left_out))


STUDENTS: Mapping[str, PaperStudent] = {
    "deit_t": PaperStudent(
        title="DeiT-Tiny",
        gmacs={196: 1.2537, 170: 1.0677, 144: 0.8880, 121: 0.7342, 101: 0.6045, 84: 0.4971},
        top1=72.2,
    ),
    "deit_s": PaperStudent(
        title="DeiT-Small",
        gmacs={196: 4.5989, 170: 3.9510, 144: 3.3155, 121: 2.7637, 101: 2.2919, 84: 1.8966},
        top1=79.8,
    ),
    "deit_b": PaperStudent(title="DeiT-Base", gmacs={196: 17.5638, 170: 15.1638, 144: 12.7888}, top1=81.8),
    "deit_b_576": PaperStudent(title="the 576-wide DeiT-Base", gmacs={196: 10.0356, 170: 8.6497}, top1=None),
    "lvvit_s": PaperStudent(title="LV-ViT-S", gmacs={196: 6.5515, 121: 4.3413}, top1=83.3),
    "lvvit_t": PaperStudent(title="LV-ViT-T", gmacs={196: 2.8680, 121: 2.1201}, top1=79.1),
    "swin_t": PaperStudent(title="Swin-T", gmacs={196: 4.4906, 144: 3.2721}, top1=81.3),
    "swin_s": PaperStudent(title="Swin-S", gmacs={196: 8.7409, 144: 6.3775}, top1=83.0),
    "swin_b": PaperStudent(title="Swin-B", gmacs={196: 15.4309, 144: 11.2779}, top1=83.5),
    "resnet50": PaperStudent(title="ResNet-50", gmacs={196: 4.0892}, top1=76.1, source="Torchvision's"),
}

# Learning rates are for a global batch of 512. Upstream's LV-ViT: 1.6e-3 for 1,024; MixToken and no Mixup. Its selector
# is fine-tuned as it is trained, with warm-up and stochastic depth, unlike DeiT's.
_LVVIT: Mapping[str, Any] = {"lr": 8e-4, "mixup": 0.0, "cutmix": 1.0, "ema_decay": 0.99992}
_FIT_LVVIT: Mapping[str, Any] = {"lr": 1.6e-5, "warmup_epochs": 5, "drop_path": 0.1}
# Swin's own (Liu et al. 2021, appendix A2.1); stochastic depth grows with the model.
_SWIN: Mapping[str, Any] = {"warmup_epochs": 20, "clip_grad": 5.0, "ema_decay": 0.0, "drop_path": 0.2}
# timm's SGD recipe, as upstream trains ResNet-50: .2048 for 1,024; no erasing, no mixing. Upstream's colour jitter of
# .4 is left out, for no policy of stored views is crops with just that.
_RESNET: Mapping[str, Any] = {
    "opt": "sgd",
    "lr": 0.1024,
    "min_lr": 1e-6,
    "warmup_lr": 1e-4,
    "warmup_epochs": 3,
    "weight_decay": 2e-5,
    "drop_path": 0.0,
    "random_erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "ema_decay": 0.0,
}

_DEIT_ROWS = (
    PaperRow(name="paper_deit_s_095", student="deit_s", keep_rate=0.95, scripts="run-deit-small-keeprate0.95-*.sh"),
    PaperRow(name="paper_deit_s_09", student="deit_s", keep_rate=0.9, scripts="run-deit-small-keeprate0.9-*.sh"),
    PaperRow(name="paper_deit_s_085", student="deit_s", keep_rate=0.85, scripts="run-deit-small-keeprate0.85-*.sh"),
    PaperRow(name="paper_deit_s_08", student="deit_s", keep_rate=0.8, scripts="run-deit-small-keeprate0.8-*.sh"),
    PaperRow(name="paper_deit_s_075", student="deit_s", keep_rate=0.75, scripts="run-deit-small-keeprate0.75-*.sh"),
    PaperRow(name="paper_deit_t_095", student="deit_t", keep_rate=0.95, scripts="run-deit-tiny-keeprate0.95-*.sh"),
    PaperRow(name="paper_deit_t_09", student="deit_t", keep_rate=0.9, scripts="run-deit-tiny-keeprate0.9-*.sh"),
    PaperRow(name="paper_deit_t_085", student="deit_t", keep_rate=0.85, scripts="run-deit-tiny-keeprate0.85-*.sh"),
    PaperRow(name="paper_deit_t_08", student="deit_t", keep_rate=0.8, scripts="run-deit-tiny-keeprate0.8-*.sh"),
    PaperRow(name="paper_deit_t_075", student="deit_t", keep_rate=0.75, scripts="run-deit-tiny-keeprate0.75-*.sh"),
    PaperRow(name="paper_deit_b_095", student="deit_b", keep_rate=0.95, scripts="run-deit-base-keeprate0.95-*.sh"),
    PaperRow(name="paper_deit_b_09", student="deit_b", keep_rate=0.9, scripts="run-deit-base-keeprate0.9-*.sh"),
    PaperRow(
        name="paper_deit_b_576_095",
        student="deit_b_576",
        keep_rate=0.95,
        scripts="run-deit-base-dim576-*.sh",
        checkpoint="runs/dense",
        checkpoint_note="There are no published weights to start the selector from: train it first, with dataltt train "
        "--control dense --model deit_b_576 --shards … --out runs/dense; that costs another 1.",
    ),
)

_LVVIT_ROWS = (
    PaperRow(
        name="paper_lvvit_s_085",
        student="lvvit_s",
        keep_rate=0.85,
        scripts="run-lvvit-small-keeprate0.85-*.sh",
        change="token labels by NFNet-F6",
        checkpoint="lvvit_s-26M-224-83.3.pth.tar",
        checkpoint_note="The checkpoint is TokenLabeling's release 1.0. As a selector, LV-ViT-S drops at blocks 4, 8 "
        "and 12.",
        recipe=_LVVIT,
        fit_recipe=_FIT_LVVIT,
        cost_note="Labelling 16 views by NFNet-F6 comes to another .6, once.",
    ),
    PaperRow(
        name="paper_lvvit_t_085",
        student="lvvit_t",
        keep_rate=0.85,
        selector="deit_s",
        comparison="(a), (b) and (c) for LV-ViT, at the smaller size",
        scripts_note="upstream has no script of it",
        change="token labels by NFNet-F6",
        recipe=_LVVIT,
        cost_note="Labelling 16 views by NFNet-F6 comes to another 1.4, the selector to .15, once.",
    ),
)


def _swin_zero(name: str, keep_rate: float, scripts: str) -> PaperRow:
    return PaperRow(
        name=name,
        student="swin_t",
        keep_rate=keep_rate,
        selector="deit_s",
        patch_input="zero",
        recipe=_SWIN,
        comparison="(a), (b) and (c) for Swin, zeroed input at keep rate {keep_rate}",
        scripts=scripts,
        scripts_note="whose random control masks only when another flag is given",
    )


def _swin_small_dense(name: str, student: str, drop_path: float, scripts: str | None = None) -> PaperRow:
    comparison = "(a), (b) and (c) for Swin, small dense input"
    return PaperRow(
        name=name,
        student=student,
        keep_rate=0.9,
        selector="deit_s",
        patch_input="small-dense",
        recipe={**_SWIN, "drop_path": drop_path},
        comparison=comparison if scripts else f"{comparison}, at a larger size",
        scripts=scripts,
        scripts_note="which test (b) on random subsets; here it is tested on tickets"
        if scripts
        else "upstream has scripts of Swin-T alone",
    )


_SWIN_ROWS = (
    _swin_zero("paper_swin_t_zero_09", 0.9, "run-swin-tiny-keeprate0.9-*-zero*.sh"),
    _swin_zero("paper_swin_t_zero_08", 0.8, "run-swin-tiny-keeprate0.8-*-zero*.sh"),
    _swin_small_dense("paper_swin_t_small_dense", "swin_t", 0.2, "run-swin-tiny-keeprate0.9-*-small-dense*.sh"),
    _swin_small_dense("paper_swin_s_small_dense", "swin_s", 0.3),
    _swin_small_dense("paper_swin_b_small_dense", "swin_b", 0.5),
)

_RESNET_ROW = PaperRow(
    name="paper_resnet50_09",
    student="resnet50",
    keep_rate=0.9,
    selector="deit_s",
    augment="crop",
    recipe=_RESNET,
    comparison="upstream's variant for CNNs, scripts-cnn/run-resnet50-block-data-keeprate0.9-*.sh",
    expect="unknown: (a) − (b) says whether tickets matter to a CNN.",
    cost_note="Fitting the selector and selecting come to another .38.",
)


def _tiny_selector(student: str, keep_rate: float, like: str, scripts: str, after: str | None = None) -> PaperRow:
    """A row of the ablation of the selector's size: by the published DeiT-Tiny, or by one that tickets trained."""
    return PaperRow(
        name=f"{like}_tiny_selector",
        student=student,
        keep_rate=keep_rate,
        selector="deit_t",
        fit=False,
        checkpoint=f"studies/{after}/runs/ticket-r{keep_rate:g}-0" if after else None,
        checkpoint_note=f"The checkpoint is the student that {after} trained on tickets." if after else "",
        comparison="its ablation of the selector's size, a {selector} selector for {student} at keep rate {keep_rate}",
        scripts=scripts,
        change="selected by a DeiT-Tiny",
        like=like,
        after=after,
        expect="(a) close to that of {like}, (c) the same.",
        cost_note=f"{after} comes before it." if after else "",
    )


def _higher_rate(student: str, keep_rate: float, like: str, scripts: str) -> PaperRow:
    """A row of the ablation of the learning rate."""
    return PaperRow(
        name=f"{like}_lr_1e_3",
        student=student,
        keep_rate=keep_rate,
        recipe={"lr": 1e-3},
        comparison="its ablation of the learning rate, {student} at keep rate {keep_rate}",
        scripts=scripts,
        change="learning rate 1e-3 instead of 5e-4",
        like=like,
        expect="the order of (a), (b) and (c) as in {like}.",
    )


_ABLATIONS = (
    _tiny_selector("deit_s", 0.8, "paper_deit_s_08", "run-deit-small-keeprate0.8-LTH-tiny-teacher.sh"),
    _tiny_selector(
        "deit_s", 0.85, "paper_deit_s_085", "run-deit-small-keeprate0.85-LTH-tiny-teacher.sh", "paper_deit_t_085"
    ),
    _tiny_selector(
        "deit_s", 0.9, "paper_deit_s_09", "run-deit-small-keeprate0.9-LTH-tiny-teacher.sh", "paper_deit_t_09"
    ),
    _tiny_selector(
        "deit_b", 0.9, "paper_deit_b_09", "run-deit-base-keeprate0.9-LTH-tiny-teacher.sh", "paper_deit_t_09"
    ),
    _higher_rate("deit_s", 0.75, "paper_deit_s_075", "run-deit-small-keeprate0.75-LTH-lr1e-3.sh"),
    _higher_rate("deit_t", 0.8, "paper_deit_t_08", "run-deit-tiny-keeprate0.8-LTH-lr1e-3.sh"),
    _higher_rate("deit_b", 0.95, "paper_deit_b_095", "run-deit-base-keeprate0.95-LTH-lr1e-3.sh"),
)

PAPER_ROWS: tuple[PaperRow, ...] = (*_DEIT_ROWS, *_LVVIT_ROWS, *_SWIN_ROWS, _RESNET_ROW, *_ABLATIONS)
