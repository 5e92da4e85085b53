"""Choices and options that several commands share, as typer wants them."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import typer


class Precision(StrEnum):
    """Arithmetic of the forward pass."""

    fp32 = "fp32"
    bf16 = "bf16"


class Optimizer(StrEnum):
    """AdamW, or SGD with Nesterov momentum."""

    adamw = "adamw"
    sgd = "sgd"


class Control(StrEnum):
    """Which patches a student is trained on."""

    ticket = "ticket"
    random = "random"
    fixed_random = "fixed-random"
    inverse = "inverse"
    dense = "dense"


class EvalOn(StrEnum):
    """Which patches a student is tested on; `own`: those that its own attention chooses."""

    ticket = "ticket"
    random = "random"
    dense = "dense"
    own = "own"


class SwinInput(StrEnum):
    """How patches reach a Swin: the others set to zero, or the kept ones packed into a smaller image."""

    zero = "zero"
    small_dense = "small-dense"


class TokenLabels(StrEnum):
    """What an LV-ViT's tokens learn: label maps in the store, or the image's label."""

    store = "store"
    image = "image"


class Views(StrEnum):
    """Which views of an image a student is shown."""

    replay = "replay"
    warp = "warp"
    static = "static"


class OnOtherPixels(StrEnum):
    """What to do with replayed views that this installation draws otherwise."""

    error = "error"
    allow = "allow"


class OnBadImage(StrEnum):
    """What to do with an image that cannot be decoded."""

    error = "error"
    skip = "skip"


class OnMissingTicket(StrEnum):
    """What to do with a sample that has no ticket."""

    error = "error"
    skip = "skip"


class OnChangedImage(StrEnum):
    """What to do with an image whose bytes are not those that its ticket was made from."""

    error = "error"
    allow = "allow"


Workers = Annotated[
    int | None, typer.Option(min=0, help="Loader processes; default: this process's share of the cores, at most 8.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
BadImage = Annotated[OnBadImage, typer.Option(help="An image that cannot be decoded: stop, or count and leave it out.")]
MissingTicket = Annotated[
    OnMissingTicket, typer.Option(help="A sample without a ticket: stop, or count and leave it out.")
]
ChangedImage = Annotated[
    OnChangedImage,
    typer.Option(help="An image with other bytes than its ticket was made from: stop, or allow re-encoded copies."),
]
Recount = Annotated[
    bool, typer.Option("--recount", help="Count the samples of each shard instead of trusting the store.")
]


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(value, indent=1, default=str))
