"""The command line: collects the commands, and turns what dataltt raises into a sentence and an exit code."""

from __future__ import annotations

import os
import sys

import typer

from .commands import (
    bench,
    demo,
    eval_,
    fidelity,
    fit_selector,
    inspect,
    label,
    pack,
    select,
    study,
    train,
    verify,
    weight_lottery,
)
from .messages import as_flags

_INTERRUPTED = 130  # what a shell calls a program that SIGINT ended

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
app.command("pack")(pack.pack)
app.command("fit-selector")(fit_selector.fit_selector)
app.command("select")(select.select)
app.command("label")(label.label)
app.command("train")(train.train)
app.command("eval")(eval_.eval_)
app.command("inspect")(inspect.inspect)
app.command("verify")(verify.verify)
app.command("demo")(demo.demo)
app.command("fidelity")(fidelity.fidelity)
app.command("study")(study.study)
app.command("weight-lottery")(weight_lottery.weight_lottery)
app.command("bench")(bench.bench)


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
        app()
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            text = (
                "dataltt: interrupted; the same command goes on where it stopped (train, fit-selector: with --resume)"
            )
            typer.secho(text, fg=typer.colors.YELLOW, err=True)
        raise
    except Exception as error:
        # Imported here: the error tree's package brings Zarr and Arrow along, which --help does not need.
        from ..artifacts_schema import DatalttError

        if not isinstance(error, DatalttError | PermissionError):
            raise
        typer.secho(f"dataltt: {as_flags(str(error))}", fg=typer.colors.RED, err=True)
        sys.exit(1)
