"""Runs a row of the paper's table: from its shards to the arms that are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...stages.data.class_list import listed_classes
from ...stages.data.shards import resolve_shards
from ...stages.models.checkpoints import find_weights
from ...stages.models.families import family_of, resolve_input
from ...stages.models.student import PatchInput
from ...stages.options import EvalProtocol
from ...stages.runtime.reporting import Reporter
from ...stages.selection.config import LabelConfig, SelectConfig
from ...stages.training.config import FitSelectorConfig, TrainConfig
from ...stages.training.fit_selector import fit_selector
from .arms import Tickets, claims, paper_arms
from .cost import CostPlan
from .engine import Arm, Study, exists, label_store, make_store
from .inputs import StudyInputs
from .paper_rows import LABELLER, PaperRow, controls_of

NUM_VIEWS = 16
DEIT_REPEATS = 3  # of DeiT's recipe
NUM_CLASSES = 1000  # ImageNet's, where no classes.json says otherwise
BATCH_SIZE, FIT_BATCH_SIZE = 128, 256  # per process; upstream has eight of them
EPOCHS: int | None = None  # None: the family's, 300 of ViTs
FIT_EPOCHS = 30
_TRAIN_STORE, _TEST_STORE = "train.zarr", "test.zarr"

# How students may be tested, by how tickets reach them: a packed Swin takes no other number of patches than K.
_TESTS: Mapping[PatchInput | None, Sequence[EvalProtocol]] = {
    None: ("ticket", "random", "dense", "own"),
    "zero": ("ticket", "random", "dense"),
    "small-dense": ("ticket", "random"),
}


def study_of(row: PaperRow, inputs: StudyInputs, reporter: Reporter) -> Study:
    """Fits the selector, selects, labels where the student wants labels, and lists the arms.

    Raises:
        DatalttError: anything that the user can mend.
    """
    inputs.needs(row.name, "shards", "test_shards", *(["checkpoint"] if row.checkpoint else []))
    selected = all(exists(inputs.folder / store, inputs.runtime.device) for store in (_TRAIN_STORE, _TEST_STORE))
    selector = inputs.checkpoint
    if row.fit and not selected:  # nobody else needs it, so a study may go on without it, or on other machines
        selector = _fitted_selector(row, inputs, reporter)
    tickets = _tickets(row, selector, inputs, reporter)
    if family_of(row.student).learns_token_labels:
        label_store(_label_config(tickets.train, inputs), reporter)
    return Study(
        name=row.name,
        arms=arms_of(row, tickets, inputs),
        comparisons=claims([tickets.label], controls_of(row)),
        test_shards=_given(inputs.test_shards),
        cost=CostPlan(
            model=row.student,
            stores=(tickets.train,),
            batch_size=inputs.batch_size or BATCH_SIZE,
            num_classes=_num_classes(inputs),
            patch_input=row.patch_input,
            precision=inputs.runtime.precision,
            device=inputs.runtime.device,
        ),
        note={"model": row.student, "selector": row.selector_name, "views": inputs.num_views or NUM_VIEWS},
    )


def arms_of(row: PaperRow, tickets: Tickets, inputs: StudyInputs) -> tuple[Arm, ...]:
    """Dense, ticket and every control, all by the row's recipe."""
    tests = _TESTS[resolve_input(row.student, row.patch_input)]
    return paper_arms(
        train_config(row, tickets, inputs),
        [tickets],
        test_shards=_given(inputs.test_shards),
        controls=controls_of(row),
        tests=tests,
        dense_on_tickets="dense" in tests,
    )


def train_config(row: PaperRow, tickets: Tickets, inputs: StudyInputs) -> TrainConfig:
    """Options that all arms share: DeiT's recipe, which is TrainConfig's defaults, with what the row changes."""
    base = TrainConfig.of(
        out=inputs.folder,
        shards=inputs.shards,
        model=row.student,
        tickets=tickets.train,  # all patches are shown the same views, too
        swin_input=row.patch_input,
        repeats=min(DEIT_REPEATS, inputs.num_views or NUM_VIEWS) if row.student.startswith("deit") else 1,
        epochs=EPOCHS,
        batch_size=inputs.batch_size or BATCH_SIZE,
        **inputs.runtime.flat(),
    )
    return base.but(**row.recipe)


def _given(shards: str | None) -> str:
    assert shards is not None  # StudyInputs.needs has asked for them
    return shards


def _num_classes(inputs: StudyInputs) -> int:
    return listed_classes(resolve_shards(_given(inputs.shards))) or NUM_CLASSES


def _tickets(row: PaperRow, selector: Path | None, inputs: StudyInputs, reporter: Reporter) -> Tickets:
    """Selects training tickets of drawn views, and test tickets of the centre view."""
    config = SelectConfig.of(
        model=row.selector_name,
        checkpoint=selector,
        shards=_given(inputs.shards),
        out=inputs.folder / _TRAIN_STORE,
        keep_rate=row.keep_rate,
        augment=row.augment,
        num_views=inputs.num_views or NUM_VIEWS,
        ranks=True,
        **inputs.runtime.flat(),
    )
    of_tests = config.but(
        shards=_given(inputs.test_shards), out=inputs.folder / _TEST_STORE, augment="none", num_views=1, ranks=False
    )
    return Tickets(label=f"r{row.keep_rate:g}", train=make_store(config, reporter), test=make_store(of_tests, reporter))


def _fitted_selector(row: PaperRow, inputs: StudyInputs, reporter: Reporter) -> Path:
    """Fine-tunes the selector with token dropping, once, from --checkpoint or timm's pretrained weights."""
    out = inputs.folder / "selector"
    config = FitSelectorConfig.of(
        model=row.selector_name,
        checkpoint=inputs.checkpoint,
        shards=_given(inputs.shards),
        val_shards=inputs.test_shards,
        out=out,
        keep_rate=row.keep_rate,
        num_classes=_num_classes(inputs),
        epochs=FIT_EPOCHS,
        batch_size=inputs.batch_size or FIT_BATCH_SIZE,
        auto_resume=True,
        **inputs.runtime.flat(),
    )
    fit_selector(config.but(**row.fit_recipe), reporter)
    return find_weights(out)


def _label_config(store: str, inputs: StudyInputs) -> LabelConfig:
    return LabelConfig.of(
        model=LABELLER,
        tickets=store,
        shards=_given(inputs.shards),
        **inputs.runtime.flat(),
    )
