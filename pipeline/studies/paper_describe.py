"""Texts of the paper's rows: what `dataltt study NAME --describe` prints, and the costs that stand in it."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass

from ...stages.models.cascade import NUM_STAGES, keep_counts
from ...stages.models.families import family_of, resolve_input
from ...stages.options import CascadeOptions
from .paper_rows import LABELLER, NUM_PATCHES, STUDENTS, PaperRow, controls_of

_WIDTH = 116
_VIT_EPOCHS = 300

_COMMON = """\
The paper's rows on ImageNet: for whoever has the data and the GPUs.

Each fine-tunes the selector with token dropping (30 epochs; not where it says otherwise), selects with 16 drawn views
per image (--num-views), and trains dense, ticket, random, fixed-random, inverse, center, resize (not LV-ViT, nor Swin
with zeros) and random-matched on those same views, by DeiT's recipe but for what the family is trained by elsewhere.
`random-matched` is the paper's longer training of (b): as many tokens as dense training sees. `center` and `resize` are
not the paper's: as many patches that need no selector.

Cost is that of one seed, counted: GMACs times epochs, 1 being dense training of the student on 224-px images. Fitting
the selector and selecting, once, come to another .03 to .12 where nothing else is said (a training step counts three
forward passes, selecting and labelling one). Rows whose selector is not fitted spare nearly all of that.

The paper's tables could not be looked up: rows are those of upstream's scripts, which stand beside them, and of sizes
that have none where it says so. Which table has which is for whoever has the paper to fill in. The authors of dataltt
have run none of this at full size: what is to be expected is the paper's claim, and the published accuracy of the
dense models, which are trained on fresh crops instead of 16 stored views."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCost:
    """Cost of a row for one seed: GMACs times epochs, 1 being dense training of the student.

    Attributes:
        dense_gmacs: of a forward pass on all patches.
        arm: of ticket, random, fixed-random, inverse and center, each.
        resize: of resize; 0 where the student cannot be shown smaller pictures.
        matched_epochs, matched: of random-matched, which sees as many tokens as dense training.
        total: of all arms.
    """

    dense_gmacs: float
    arm: float
    resize: float
    matched_epochs: int
    matched: float
    total: float


def num_keep(row: PaperRow) -> int:
    """Patches that the row keeps."""
    return keep_counts(NUM_PATCHES, CascadeOptions(keep_rate=row.keep_rate))[-1]


def cost_of(row: PaperRow) -> RowCost:
    """Adds up a row's arms; a student that is shown zeros computes on all patches."""
    gmacs = STUDENTS[row.student].gmacs
    zeroed = resolve_input(row.student, row.patch_input) == "zero"
    arm = 1.0 if zeroed else gmacs[num_keep(row)] / gmacs[NUM_PATCHES]
    epochs = family_of(row.student).epochs
    matched_epochs = round(epochs / row.keep_rate**NUM_STAGES)
    matched = matched_epochs / epochs * arm
    # A smaller picture's tokens are about as many as a ticket's; convolutions cost what its area is of the whole.
    resize = 0.0 if "resize" not in controls_of(row) else arm if not zeroed else num_keep(row) / NUM_PATCHES
    return RowCost(
        dense_gmacs=gmacs[NUM_PATCHES],
        arm=arm,
        resize=resize,
        matched_epochs=matched_epochs,
        matched=matched,
        total=1 + 5 * arm + resize + matched,
    )


def command_of(row: PaperRow) -> str:
    """The row's command line, for eight GPUs."""
    checkpoint = f" --checkpoint {row.checkpoint}" if row.checkpoint else ""
    return (
        f"torchrun --nproc-per-node 8 --no-python dataltt study {row.name} --shards 'train-*.tar' "
        f"--test-shards 'val-*.tar' --precision bf16 --seeds 0{checkpoint}"
    )


def describe_row(row: PaperRow) -> str:
    """Says what a row is, runs, costs and should come to, and after it what all rows have in common."""
    lines = [
        f"Paper: {_comparison(row)}.",
        f"Command: {command_of(row)}",
        row.checkpoint_note,
        *_label_lines(row),
        f"Tickets: by {_selector(row)}.",
        f"Cost: {_cost(row)}",
        f"To expect: {_expected(row)}",
    ]
    filled = [textwrap.fill(line, _WIDTH, break_long_words=False, break_on_hyphens=False) for line in lines if line]
    return "\n".join([f"{_title(row)}.", "", *filled, "", _COMMON])


def _title(row: PaperRow) -> str:
    kept = f"{num_keep(row)} of {NUM_PATCHES} patches"
    title = STUDENTS[row.student].title
    title = title[0].upper() + title[1:]
    match resolve_input(row.student, row.patch_input):
        case "zero":
            title += f", all but {kept} set to zero"
        case "small-dense":
            side = math.isqrt(num_keep(row))  # patches of 16 px, windows of half as many tokens
            title += f" on {kept} packed into {16 * side} px (window {side // 2})"
        case None:
            title += f" at keep rate {_short(row.keep_rate)} ({kept})"
    return f"{title}, {row.change}" if row.change else title


def _comparison(row: PaperRow) -> str:
    text = row.comparison.format(
        student=STUDENTS[row.student].title,
        selector=STUDENTS[row.selector_name].title,
        keep_rate=_short(row.keep_rate),
    )
    if row.scripts:
        text += f"; upstream: scripts/{row.scripts}"
    if row.scripts_note:
        text += f"{', ' if row.scripts else '; '}{row.scripts_note}"
    return text


def _label_lines(row: PaperRow) -> tuple[str, ...]:
    """Lines on how to go on where a student's labeller cannot be downloaded."""
    if not family_of(row.student).learns_token_labels:
        return ()
    model = LABELLER.partition(".")[0]
    return (
        "Where NFNet-F6 cannot be downloaded, the study stops before it labels; then",
        f"dataltt label --tickets studies/{row.name}/train.zarr --model {model} --checkpoint FILE",
        "and the same command again.",
    )


def _selector(row: PaperRow) -> str:
    """The selector, and its keep rate where the title has none."""
    title = STUDENTS[row.selector_name].title
    if row.after:
        return f"a {title} that was itself trained on tickets"
    if not row.fit:
        return f"the published {title} as it is"
    gathered = resolve_input(row.student, row.patch_input) is None
    rate = "" if gathered else f" at keep rate {_short(row.keep_rate)}"
    return f"a fine-tuned {title.removeprefix('the ')}{rate}"


def _cost(row: PaperRow) -> str:
    cost = cost_of(row)
    epochs = family_of(row.student).epochs
    per_image = f"{cost.dense_gmacs:.2f} GMACs per image" + ("" if epochs == _VIT_EPOCHS else f", {epochs} epochs")
    if cost.arm == 1:
        each = ", for zeros save nothing: dense, ticket, random, fixed-random, inverse and center 1 each"
        each += f", resize {_short(cost.resize, 2)}" if cost.resize else ""
    else:
        plain = "inverse, center and resize" if cost.resize else "inverse and center"
        each = f": dense 1, ticket, random, fixed-random, {plain} {_short(cost.arm, 2)} each"
    matched = f"random-matched {_short(cost.matched, 2)} ({cost.matched_epochs} epochs)"
    text = f"{cost.total:.1f} dense trainings ({per_image}){each}, {matched}."
    return f"{text} {row.cost_note}" if row.cost_note else text


def _expected(row: PaperRow) -> str:
    """Lines on what should come out, and dense training's published accuracy where the row is no variant of another."""
    text = row.expect.format(like=row.like)
    if row.like:
        return text
    student = STUDENTS[row.student]
    if student.top1 is None:
        return f"{text} There is no published dense figure."
    return f"{text} {student.source} dense {student.title} has {student.top1:.1f} % top-1."


def _short(number: float, digits: int | None = None) -> str:
    """A number without the zero before its point: .85."""
    return (f"{number:g}" if digits is None else f"{number:.{digits}f}").lstrip("0")
