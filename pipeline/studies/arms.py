"""The paper's arms: (a) tickets, (b) random subsets tested on tickets, (c) all patches, and controls beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...stages.options import EvalProtocol
from ...stages.training.config import TrainConfig
from .engine import Arm, Comparison, Evaluation

# Controls that train on as many patches as the ticket has; `random-matched` sees as many tokens as dense training.
PAPER_CONTROLS = ("random", "fixed-random", "inverse", "random-matched")
# Ways to spend as many tokens that need no selector. They are tested on what they train on.
PLAIN_CONTROLS: tuple[EvalProtocol, ...] = ("center", "resize")
CONTROLS = (*PAPER_CONTROLS, *PLAIN_CONTROLS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tickets:
    """The stores of one ratio: `label` names it in the table, e.g. ".5"."""

    label: str
    train: str
    test: str


def paper_arms(
    base: TrainConfig,
    tickets: Sequence[Tickets],
    *,
    test_shards: str,
    controls: Sequence[str] = CONTROLS,
    tests: Sequence[EvalProtocol] = ("ticket", "random", "dense", "own"),
    prefix: str = "",
    dense_on_tickets: bool = True,
) -> tuple[Arm, ...]:
    """Dense once, and for each ratio the ticket arm and its controls, all with the same recipe.

    Args:
        base: what all share. Dense runs of it have no store, unless `base` names one (for its views, or token labels).
        tests: of every arm but dense, beginning with the one that it is validated on. Central patches and smaller
            pictures are tested on themselves, and on all patches where the others are.
        prefix: of the arms' names, where a study has several students.
    """
    on_tickets = tuple(Evaluation(on="ticket", tickets=t.test, name=f"ticket {t.label}") for t in tickets)
    dense = Arm(
        name=f"{prefix}dense",
        train=base.but(control="dense", val_shards=test_shards, test="dense"),
        tests=(Evaluation(on="dense"), *(on_tickets if dense_on_tickets else ())),
    )
    return (dense, *(arm for t in tickets for arm in _of_ratio(base, t, test_shards, controls, tests, prefix)))


def _of_ratio(
    base: TrainConfig,
    tickets: Tickets,
    test_shards: str,
    controls: Sequence[str],
    tests: Sequence[EvalProtocol],
    prefix: str,
) -> list[Arm]:
    common = base.but(tickets=tickets.train, val_tickets=tickets.test, val_shards=test_shards, test=tests[0])
    plain = base.but(tickets=tickets.train, val_tickets=tickets.test, val_shards=test_shards)
    trained = {
        "ticket": common.but(control="ticket"),
        "random": common.but(control="random"),
        "fixed-random": common.but(control="fixed-random"),
        "inverse": common.but(control="inverse"),
        "random-matched": common.but(control="random", match_tokens=True),
        "center": plain.but(control="center", test="center"),
        "resize": plain.but(control="resize", test="resize"),
    }
    return [
        Arm(
            name=f"{prefix}{name}-{tickets.label}",
            train=trained[name],
            tests=tuple(Evaluation(on=on, tickets=tickets.test) for on in _tests_of(name, tests)),
            group=tickets.label,
            stored=("tickets",) if name == "ticket" else (),
        )
        for name in ("ticket", *controls)
    ]


def _tests_of(arm: str, tests: Sequence[EvalProtocol]) -> Sequence[EvalProtocol]:
    own = [name for name in PLAIN_CONTROLS if name == arm]
    return (*own, *(on for on in tests if on == "dense")) if own else tests


def claims(labels: Sequence[str], controls: Sequence[str] = CONTROLS, prefix: str = "") -> tuple[Comparison, ...]:
    """(a) − (b), (c) − (a), and (a) minus each other control, tested on tickets: but for (c), central patches and
    smaller pictures, which are tested on themselves.

    The hypothesis claims that (a) is above every control, and (c) at most a point above (a).
    """
    found = []
    for label in labels:
        a = (f"{prefix}ticket-{label}", "ticket")
        for name in controls:
            what = "(a) − (b)" if name == "random" else f"(a) − {name}"
            b = (f"{prefix}{name}-{label}", name if name in PLAIN_CONTROLS else "ticket")
            found.append(Comparison(name=f"{prefix}{what}, {label}", first=a, second=b, claim="above"))
        c = (f"{prefix}dense", "dense")
        found.append(Comparison(name=f"{prefix}(c) − (a), {label}", first=c, second=a, claim="no worse"))
    return tuple(found)
