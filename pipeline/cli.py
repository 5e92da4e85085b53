"""The command line: collects the commands, and turns what dataltt raises into a sentence and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import typer

from ..stages.runtime.interrupts import Terminated, terminable
from .commands import (
    bake,
    bench,
    cache,
    card,
    demo,
    eval_,
    fidelity,
    fit_selector,
    inspect,
    label,
    pack,
    pull,
    push,
    quality,
    select,
    store,
    study,
    train,
    verify,
    view,
    weight_lottery,
)
from .options import ConfiguredCommand
from .unexpected import end_by

_INTERRUPTED = 130  # what a shell calls a program that SIGINT ended
TERMINATED = 75  # EX_TEMPFAIL: SIGTERM asked for it, what was done is saved, and the same command goes on

# By what a user wants. A command that is not there yet takes its place here. Of a name of two words, the first is a
# group of commands.
COMMANDS: dict[str, dict[str, Callable[..., Any]]] = {
    "Try it": {"demo": demo.demo},
    "Make tickets": {
        "pack": pack.pack,
        "fit-selector": fit_selector.fit_selector,
        "select": select.select,
        "label": label.label,
    },
    "Train and test": {"bake": bake.bake, "train": train.train, "eval": eval_.eval_},
    "Share": {
        "push": push.push,
        "pull": pull.pull,
        "card": card.card,
        "cache": cache.cache,
        "store merge": store.merge,
        "store subset": store.subset,
        "store thin": store.thin,
        "store diff": store.diff,
    },
    "Look and check": {"inspect": inspect.inspect, "view": view.view, "verify": verify.verify},
    "Measure": {
        "quality": quality.quality,
        "fidelity": fidelity.fidelity,
        "study": study.study,
        "weight-lottery": weight_lottery.weight_lottery,
        "bench": bench.bench,
    },
}

app = typer.Typer(
    name="dataltt",
    help="Data-level lottery tickets for vision transformers: find the patches that a ViT needs once, store them as "
    "tickets, train on those alone.\n\nStart with: dataltt demo",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
GROUPS = {
    "store": "Combine ticket stores into new ones, and compare them.\n\nA new store is written whole or not at all, "
    "and says which stores it came from."
}
_groups: dict[str, typer.Typer] = {}
for _panel, _commands in COMMANDS.items():
    for _name, _command in _commands.items():
        *_group, _last = _name.split()
        if not _group:
            app.command(_name, cls=ConfiguredCommand, rich_help_panel=_panel)(_command)
            continue
        if _group[0] not in _groups:
            _groups[_group[0]] = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help=GROUPS[_group[0]])
            app.add_typer(_groups[_group[0]], name=_group[0], rich_help_panel=_panel)
        _groups[_group[0]].command(_last, cls=ConfiguredCommand)(_command)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"dataltt {version('dataltt')}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def main() -> None:
    """Entry point of the console script."""
    # OpenMP's threads spin while they wait, unless told otherwise before torch is loaded. Beside loader processes, or
    # anything else that wants the cores, spinning costs far more than waking up does.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        # Many processes may wait for each other, deaf to what Python makes of a signal.
        with terminable() if int(os.environ.get("WORLD_SIZE", 1)) == 1 else nullcontext():
            app()
    except SystemExit as stop:
        if stop.code != _INTERRUPTED:
            raise
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            # The first process to end makes torchrun ask the others once more, whose handlers Python takes down now.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _say_interrupted()
        sys.exit(TERMINATED if _is_termination(stop) else _INTERRUPTED)
    except Exception as error:
        if not getattr(error, "is_said", False):  # else rank 0 says it
            sys.exit(end_by(error))
        sys.exit(1)


def _say_interrupted() -> None:
    if int(os.environ.get("RANK", 0)) == 0:
        text = "dataltt: interrupted; the same command goes on where it stopped (train, fit-selector: with --resume)"
        typer.secho(text, fg=typer.colors.YELLOW, err=True)


def _is_termination(stop: SystemExit) -> bool:
    """Tells whether SIGTERM asked for the end that typer made an exit of."""
    cause: BaseException | None = stop
    while cause is not None and not isinstance(cause, Terminated):
        cause = cause.__context__
    return cause is not None
