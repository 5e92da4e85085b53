"""The paper's rows of DeiT; paper.py says what all rows have in common."""

from __future__ import annotations

from ...stages.runtime.reporting import Reporter
from .engine import Study, StudyInputs
from .paper_row import Row, study_of


def paper_deit_s_095(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-Small at keep rate .95 (170 of 196 patches).

    Paper: (a), (b) and (c) on ImageNet, DeiT-Small at keep rate .95; upstream:
    scripts/run-deit-small-keeprate0.95-*.sh.
    Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_s_095 --shards 'train-*.tar'
    --test-shards 'val-*.tar' --precision bf16 --seeds 0
    Tickets: by a fine-tuned DeiT-Small.
    Cost: 5.4 dense trainings (4.60 GMACs per image): dense 1, ticket, random, fixed-random and inverse .86 each,
    random-matched 1.00 (350 epochs).
    To expect: (a) ≈ (c) > (b). The published dense DeiT-Small has 79.8 % top-1.
    """
    return study_of("paper_deit_s_095", Row(student="deit_s", keep_rate=0.95), inputs, reporter)


def paper_deit_s_09(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-Small at keep rate .9 (144 of 196 patches).

    Paper: (a), (b) and (c) on ImageNet, DeiT-Small at keep rate .9; upstream:
    scripts/run-deit-small-keeprate0.9-*.sh.
    Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_s_09 --shards 'train-*.tar'
    --test-shards 'val-*.tar' --precision bf16 --seeds 0
    Tickets: by a fine-tuned DeiT-Small.
    Cost: 4.9 dense trainings (4.60 GMACs per image): dense 1, ticket, random, fixed-random and inverse .72 each,
    random-matched .99 (412 epochs).
    To expect: (a) ≈ (c) > (b). The published dense DeiT-Small has 79.8 % top-1.
    """
    return study_of("paper_deit_s_09", Row(student="deit_s", keep_rate=0.9), inputs, reporter)


def paper_deit_s_085(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-Small at keep rate .85 (121 of 196 patches).

    Paper: (a), (b) and (c) on ImageNet, DeiT-Small at keep rate .85; upstream:
    scripts/run-deit-small-keeprate0.85-*.sh.
    Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_s_085 --shards 'train-*.tar'
    --test-shards 'val-*.tar' --precision bf16 --seeds 0
    Tickets: by a fine-tuned DeiT-Small.
    Cost: 4.4 dense trainings (4.60 GMACs per image): dense 1, ticket, random, fixed-random and inverse .60 each,
    random-matched .98 (488 epochs).
    To expect: (a) ≈ (c) > (b). The published dense DeiT-Small has 79.8 % top-1.
    """
    return study_of("paper_deit_s_085", Row(student="deit_s", keep_rate=0.85), inputs, reporter)


def paper_deit_s_08(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-Small at keep rate .8 (101 of 196 patches).

    Paper: (a), (b) and (c) on ImageNet, DeiT-Small at keep rate .8; upstream:
    scripts/run-deit-small-keeprate0.8-*.sh.
    Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_s_08 --shards 'train-*.tar'
    --test-shards 'val-*.tar' --precision bf16 --seeds 0
    Tickets: by a fine-tuned DeiT-Small.
    Cost: 4.0 dense trainings (4.60 GMACs per image): dense 1, ticket, random, fixed-random and inverse .50 each,
    random-matched .97 (586 epochs).
    To expect: (a) ≈ (c) > (b). The published dense DeiT-Small has 79.8 % top-1.
    """
    return study_of("paper_deit_s_08", Row(student="deit_s", keep_rate=0.8), inputs, reporter)


def paper_deit_s_075(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-Small at keep rate .75 (84 of 196 patches).

    Paper: (a), (b) and (c) on ImageNet, DeiT-Small at keep rate .75; upstream:
    scripts/run-deit-small-keeprate0.75-*.sh.
    Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_s_075 --shards 'train-*.tar'
    --test-shards 'val-*.tar' --precision bf16 --seeds 0
    Tickets: by a fine-tuned DeiT-Small.
    Cost: 3.6 dense trainings (4.60 GMACs per image): dense 1, ticket, random, fixed-random and inverse .41 each,
    random-matched .98 (711 epochs).
    To expect: (a) ≈ (c) > (b). The published dense DeiT-Small has 79.8 % top-1.
    """
    return study_of("paper_deit_s_075", Row(student="deit_s", keep_rate=0.75), inputs, reporter)


def paper_deit_t_095(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-Tiny at keep rate .95 (170 of 196 patches).

    Paper: (a), (b) and (c) on ImageNet, DeiT-Tiny at keep rate .95; upstream:
    scripts/run-deit-tiny-keeprate0.95-*.sh.
    Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_t_095 --shards 'train-*.tar'
    --test-shards 'val-*.tar' --precision bf16 --seeds 0
    Tickets: by a fine-tuned DeiT-Tiny.
    Cost: 5.4 dense trainings (1.25 GMACs per image): dense 1, ticket, random, fixed-random and inverse .85 each,
    random-matched .99 (350 epochs).
    To expect: (a) ≈ (c) > (b). The published dense DeiT-Tiny has 72.2 % top-1.
    """
    return study_of("paper_deit_t_095", Row(student="deit_t", keep_rate=0.95), inputs, reporter)


def paper_deit_t_09(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-Tiny at keep rate .9 (144 of 196 patches).

    Paper: (a), (b) and (c) on ImageNet, DeiT-Tiny at keep rate .9; upstream:
    scripts/run-deit-tiny-keeprate0.9-*.sh.
    Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_t_09 --shards 'train-*.tar'
    --test-shards 'val-*.tar' --precision bf16 --seeds 0
    Tickets: by a fine-tuned DeiT-Tiny.
    Cost: 4.8 dense trainings (1.25 GMACs per image): dense 1, ticket, random, fixed-random and inverse .71 each,
    random-matched .97 (412 epochs).
    To expect: (a) ≈ (c) > (b). The published dense DeiT-Tiny has 72.2 % top-1.
    """
    return study_of("paper_deit_t_09", Row(student="deit_t", keep_rate=0.9), inputs, reporter)


def paper_deit_t_085(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-Tiny at keep rate .85 (121 of 196 patches).

    Paper: (a), (b) and (c) on ImageNet, DeiT-Tiny at keep rate .85; upstream:
    scripts/run-deit-tiny-keeprate0.85-*.sh.
    Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_t_085 --shards 'train-*.tar'
    --test-shards 'val-*.tar' --precision bf16 --seeds 0
    Tickets: by a fine-tuned DeiT-Tiny.
    Cost: 4.3 dense trainings (1.25 GMACs per image): dense 1, ticket, random, fixed-random and inverse .59 each,
    random-matched .95 (488 epochs).
    To expect: (a) ≈ (c) > (b). The published dense DeiT-Tiny has 72.2 % top-1.
    """
    return study_of("paper_deit_t_085", Row(student="deit_t", keep_rate=0.85), inputs, reporter)


def paper_deit_t_08(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-Tiny at keep rate .8 (101 of 196 patches).

    Paper: (a), (b) and (c) on ImageNet, DeiT-Tiny at keep rate .8; upstream:
    scripts/run-deit-tiny-keeprate0.8-*.sh.
    Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_t_08 --shards 'train-*.tar'
    --test-shards 'val-*.tar' --precision bf16 --seeds 0
    Tickets: by a fine-tuned DeiT-Tiny.
    Cost: 3.9 dense trainings (1.25 GMACs per image): dense 1, ticket, random, fixed-random and inverse .48 each,
    random-matched .94 (586 epochs).
    To expect: (a) ≈ (c) > (b). The published dense DeiT-Tiny has 72.2 % top-1.
    """
    return study_of("paper_deit_t_08", Row(student="deit_t", keep_rate=0.8), inputs, reporter)


def paper_deit_t_075(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-Tiny at keep rate .75 (84 of 196 patches).

    Paper: (a), (b) and (c) on ImageNet, DeiT-Tiny at keep rate .75; upstream:
    scripts/run-deit-tiny-keeprate0.75-*.sh.
    Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_t_075 --shards 'train-*.tar'
    --test-shards 'val-*.tar' --precision bf16 --seeds 0
    Tickets: by a fine-tuned DeiT-Tiny.
    Cost: 3.5 dense trainings (1.25 GMACs per image): dense 1, ticket, random, fixed-random and inverse .40 each,
    random-matched .94 (711 epochs).
    To expect: (a) ≈ (c) > (b). The published dense DeiT-Tiny has 72.2 % top-1.
    """
    return study_of("paper_deit_t_075", Row(student="deit_t", keep_rate=0.75), inputs, reporter)


def paper_deit_b_095(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-Base at keep rate .95 (170 of 196 patches).

    Paper: (a), (b) and (c) on ImageNet, DeiT-Base at keep rate .95; upstream:
    scripts/run-deit-base-keeprate0.95-*.sh.
    Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_b_095 --shards 'train-*.tar'
    --test-shards 'val-*.tar' --precision bf16 --seeds 0
    Tickets: by a fine-tuned DeiT-Base.
    Cost: 5.5 dense trainings (17.56 GMACs per image): dense 1, ticket, random, fixed-random and inverse .86 each,
    random-matched 1.01 (350 epochs).
    To expect: (a) ≈ (c) > (b). The published dense DeiT-Base has 81.8 % top-1.
    """
    return study_of("paper_deit_b_095", Row(student="deit_b", keep_rate=0.95), inputs, reporter)


def paper_deit_b_09(inputs: StudyInputs, reporter: Reporter) -> Study:
    """DeiT-Base at keep rate .9 (144 of 196 patches).

    Paper: (a), (b) and (c) on ImageNet, DeiT-Base at keep rate .9; upstream:
    scripts/run-deit-base-keeprate0.9-*.sh.
    Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_b_09 --shards 'train-*.tar'
    --test-shards 'val-*.tar' --precision bf16 --seeds 0
    Tickets: by a fine-tuned DeiT-Base.
    Cost: 4.9 dense trainings (17.56 GMACs per image): dense 1, ticket, random, fixed-random and inverse .73 each,
    random-matched 1.00 (412 epochs).
    To expect: (a) ≈ (c) > (b). The published dense DeiT-Base has 81.8 % top-1.
    """
    return study_of("paper_deit_b_09", Row(student="deit_b", keep_rate=0.9), inputs, reporter)


def paper_deit_b_576_095(inputs: StudyInputs, reporter: Reporter) -> Study:
    """The 576-wide DeiT-Base at keep rate .95 (170 of 196 patches).

    Paper: (a), (b) and (c) on ImageNet, the 576-wide DeiT-Base at keep rate .95; upstream:
    scripts/run-deit-base-dim576-*.sh.
    Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_b_576_095 --shards 'train-*.tar'
    --test-shards 'val-*.tar' --precision bf16 --seeds 0 --checkpoint runs/dense
    There are no published weights to start the selector from: train it first, with dataltt train --control dense
    --model deit_b_576 --shards … --out runs/dense; that costs another 1.
    Tickets: by a fine-tuned one of its own kind.
    Cost: 5.5 dense trainings (10.04 GMACs per image): dense 1, ticket, random, fixed-random and inverse .86 each,
    random-matched 1.01 (350 epochs).
    To expect: (a) ≈ (c) > (b). There is no published dense figure.
    """
    return study_of(
        "paper_deit_b_576_095", Row(student="deit_b_576", keep_rate=0.95, needs_checkpoint=True), inputs, reporter
    )


RECIPES = (
    paper_deit_s_095,
    paper_deit_s_09,
    paper_deit_s_085,
    paper_deit_s_08,
    paper_deit_s_075,
    paper_deit_t_095,
    paper_deit_t_09,
    paper_deit_t_085,
    paper_deit_t_08,
    paper_deit_t_075,
    paper_deit_b_095,
    paper_deit_b_09,
    paper_deit_b_576_095,
)
