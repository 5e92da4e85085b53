"""Last words of commands: what is printed when the work is done."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from .escaping import shown

if TYPE_CHECKING:
    from rich.table import Column


def is_said(as_json: bool, document: Callable[[], Any]) -> bool:
    """Tells whether nothing is left to print: on other ranks than 0, or once the document went out as JSON."""
    from ..stages.runtime.distributed import is_main_process

    if not is_main_process():
        return True
    if as_json:
        print_json(document())
    return as_json


def print_json(value: Any) -> None:
    """Prints one JSON document on standard output."""
    typer.echo(json.dumps(value, indent=1, default=str))


def numbers(*headers: str) -> list[Column]:
    """Columns of numbers for a rich table: right-aligned, their headers too."""
    from rich.table import Column

    return [Column(header, justify="right") for header in headers]


def say(text: str) -> None:
    """A line on standard output. Names in it may be somebody else's."""
    typer.echo(shown(text))


def warn(text: str) -> None:
    """A sentence on standard error that is to be seen."""
    typer.secho(shown(text), fg=typer.colors.YELLOW, err=True)


def end_run(result: Any, as_json: bool, next_command: str = "") -> None:
    """Says what a run came to: a TrainResult."""
    if is_said(as_json, lambda: asdict(result)):
        return
    best = f", best top-1 {result.best_top1:.2f}" if result.best_top1 is not None else ""
    on = f" on {result.protocol}" if best and result.protocol is not None else ""
    then = f"; next: {next_command}" if next_command else ""
    say(f"{result.run}: step {result.step}, epoch {result.epoch}{best}{on}{then}")
    if result.num_missing:
        warn(f"{result.num_missing} sample(s) without a ticket were left out, as asked")
    if result.num_skipped:
        warn(f"{result.num_skipped} sample(s) were left out, as asked")
