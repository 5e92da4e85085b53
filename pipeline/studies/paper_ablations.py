"""The paper's ablations, selector size and learning rate; paper.py says what all rows have in common."""

from __future__ import annotations

from ...stages.runtime.reporting import Reporter
from .engine import Study, StudyInputs
from .paper_row import Row, study_of


def paper_deit_s_08_tiny_selector(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-Small at keep rate .8 (101 of 196 patches), selected by a DeiT-Tiny.

    Paper: its ablation of the selector's size, a DeiT-Tiny selector for DeiT-Small at keep rate .8; upstream:
    scripts/run-deit-small-keeprate0.8-LTH-tiny-teacher.sh.
    Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_s_08_tiny_selector --shards 'train-*.tar'
    --test-shards 'val-*.tar' --precision bf16 --seeds 0
    Tickets: by the published DeiT-Tiny as it is.
    Cost: 4.0 dense trainings (4.60 GMACs per image): dense 1, ticket, random, fixed-random and inverse .50 each,
    random-matched .97 (586 epochs).
    To expect: (a) close to that of paper_deit_s_08, (c) the same.
    """
    return study_of(
        "paper_deit_s_08_tiny_selector",
        Row(student="deit_s", keep_rate=0.8, selector="deit_t", fit=False),
        inputs,
        reporter,
    )


def paper_deit_s_085_tiny_selector(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-Small at keep rate .85 (121 of 196 patches), selected by a DeiT-Tiny.

    Paper: its ablation of the selector's size, a DeiT-Tiny selector for DeiT-Small at keep rate .85; upstream:
    scripts/run-deit-small-keeprate0.85-LTH-tiny-teacher.sh.
    Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_s_085_tiny_selector --shards 'train-*.tar'
    --test-shards 'val-*.tar' --precision bf16 --seeds 0 --checkpoint studies/paper_deit_t_085/runs/ticket-r0.85-0
    The checkpoint is the student that paper_deit_t_085 trained on tickets.
    Tickets: by a DeiT-Tiny that was itself trained on tickets.
    Cost: 4.4 dense trainings (4.60 GMACs per image): dense 1, ticket, random, fixed-random and inverse .60 each,
    random-matched .98 (488 epochs). paper_deit_t_085 comes before it.
    To expect: (a) close to that of paper_deit_s_085, (c) the same.
    """
    return study_of(
        "paper_deit_s_085_tiny_selector",
        Row(student="deit_s", keep_rate=0.85, selector="deit_t", fit=False, needs_checkpoint=True),
        inputs,
        reporter,
    )


def paper_deit_s_09_tiny_selector(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-Small at keep rate .9 (144 of 196 patches), selected by a DeiT-Tiny.

    Paper: its ablation of the selector's size, a DeiT-Tiny selector for DeiT-Small at keep rate .9; upstream:
    scripts/run-deit-small-keeprate0.9-LTH-tiny-teacher.sh.
    Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_s_09_tiny_selector --shards 'train-*.tar'
    --test-shards 'val-*.tar' --precision bf16 --seeds 0 --checkpoint studies/paper_deit_t_09/runs/ticket-r0.9-0
    The checkpoint is the student that paper_deit_t_09 trained on tickets.
    Tickets: by a DeiT-Tiny that was itself trained on tickets.
    Cost: 4.9 dense trainings (4.60 GMACs per image): dense 1, ticket, random, fixed-random and inverse .72 each,
    random-matched .99 (412 epochs). paper_deit_t_09 comes before it.
    To expect: (a) close to that of paper_deit_s_09, (c) the same.
    """
    return study_of(
        "paper_deit_s_09_tiny_selector",
        Row(student="deit_s", keep_rate=0.9, selector="deit_t", fit=False, needs_checkpoint=True),
        inputs,
        reporter,
    )


def paper_deit_b_09_tiny_selector(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-Base at keep rate .9 (144 of 196 patches), selected by a DeiT-Tiny.

    Paper: its ablation of the selector's size, a DeiT-Tiny selector for DeiT-Base at keep rate .9; upstream:
    scripts/run-deit-base-keeprate0.9-LTH-tiny-teacher.sh.
    Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_b_09_tiny_selector --shards 'train-*.tar'
    --test-shards 'val-*.tar' --precision bf16 --seeds 0 --checkpoint studies/paper_deit_t_09/runs/ticket-r0.9-0
    The checkpoint is the student that paper_deit_t_09 trained on tickets.
    Tickets: by a DeiT-Tiny that was itself trained on tickets.
    Cost: 4.9 dense trainings (17.56 GMACs per image): dense 1, ticket, random, fixed-random and inverse .73 each,
    random-matched 1.00 (412 epochs). paper_deit_t_09 comes before it.
    To expect: (a) close to that of paper_deit_b_09, (c) the same.
    """
    return study_of(
        "paper_deit_b_09_tiny_selector",
        Row(student="deit_b", keep_rate=0.9, selector="deit_t", fit=False, needs_checkpoint=True),
        inputs,
        reporter,
    )


def paper_deit_s_075_lr_1e_3(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-Small at keep rate .75 (84 of 196 patches), learning rate 1e-3 instead of 5e-4.

    Paper: its ablation of the learning rate, DeiT-Small at keep rate .75; upstream:
    scripts/run-deit-small-keeprate0.75-LTH-lr1e-3.sh.
    Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_s_075_lr_1e_3 --shards 'train-*.tar'
    --test-shards 'val-*.tar' --precision bf16 --seeds 0
    Tickets: by a fine-tuned DeiT-Small.
    Cost: 3.6 dense trainings (4.60 GMACs per image): dense 1, ticket, random, fixed-random and inverse .41 each,
    random-matched .98 (711 epochs).
    To expect: the order of (a), (b) and (c) as in paper_deit_s_075.
    """
    return study_of(
        "paper_deit_s_075_lr_1e_3", Row(student="deit_s", keep_rate=0.75, recipe={"lr": 1e-3}), inputs, reporter
    )


def paper_deit_t_08_lr_1e_3(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-Tiny at keep rate .8 (101 of 196 patches), learning rate 1e-3 instead of 5e-4.

    Paper: its ablation of the learning rate, DeiT-Tiny at keep rate .8; upstream:
    scripts/run-deit-tiny-keeprate0.8-LTH-lr1e-3.sh.
    Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_t_08_lr_1e_3 --shards 'train-*.tar'
    --test-shards 'val-*.tar' --precision bf16 --seeds 0
    Tickets: by a fine-tuned DeiT-Tiny.
    Cost: 3.9 dense trainings (1.25 GMACs per image): dense 1, ticket, random, fixed-random and inverse .48 each,
    random-matched .94 (586 epochs).
    To expect: the order of (a), (b) and (c) as in paper_deit_t_08.
    """
    return study_of(
        "paper_deit_t_08_lr_1e_3", Row(student="deit_t", keep_rate=0.8, recipe={"lr": 1e-3}), inputs, reporter
    )


def paper_deit_b_095_lr_1e_3(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-Base at keep rate .95 (170 of 196 patches), learning rate 1e-3 instead of 5e-4.

    Paper: its ablation of the learning rate, DeiT-Base at keep rate .95; upstream:
    scripts/run-deit-base-keeprate0.95-LTH-lr1e-3.sh.
    Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_b_095_lr_1e_3 --shards 'train-*.tar'
    --test-shards 'val-*.tar' --precision bf16 --seeds 0
    Tickets: by a fine-tuned DeiT-Base.
    Cost: 5.5 dense trainings (17.56 GMACs per image): dense 1, ticket, random, fixed-random and inverse .86 each,
    random-matched 1.01 (350 epochs).
    To expect: the order of (a), (b) and (c) as in paper_deit_b_095.
    """
    return study_of(
        "paper_deit_b_095_lr_1e_3", Row(student="deit_b", keep_rate=0.95, recipe={"lr": 1e-3}), inputs, reporter
    )


RECIPES = (
    paper_deit_s_08_tiny_selector,
    paper_deit_s_085_tiny_selector,
    paper_deit_s_09_tiny_selector,
    paper_deit_b_09_tiny_selector,
    paper_deit_s_075_lr_1e_3,
    paper_deit_t_08_lr_1e_3,
    paper_deit_b_095_lr_1e_3,
)
