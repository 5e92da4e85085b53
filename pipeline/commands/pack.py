"""dataltt pack"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import Json, print_json
from ..progress import reporting


def pack(
    src: Annotated[Path, typer.Argument(help="Root of an ImageFolder tree: SRC/CLASS/IMAGE.jpg.")],
    out: Annotated[Path, typer.Argument(help="Folder for the shards and classes.json.")],
    max_count: Annotated[int, typer.Option(min=1, help="Images per shard.")] = 1000,
    name: Annotated[str, typer.Option(help="Shards are called NAME-000000.tar, …")] = "train",
    shuffle: Annotated[bool, typer.Option(help="Mix the classes before packing; a streaming trainer needs it.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of that shuffle.")] = 0,
    as_json: Json = False,
) -> None:
    """Pack an ImageFolder tree into WebDataset shards; images are copied as they are.

    Example: dataltt pack imagenet/train shards --name train
    """
    from dataclasses import asdict

    from ...stages.data.packing import pack_image_folder

    with reporting() as reporter:
        summary = pack_image_folder(
            src, out, name=name, max_count=max_count, shuffle=shuffle, seed=seed, reporter=reporter
        )
    if as_json:
        print_json(asdict(summary))
    else:
        typer.echo(
            f"{summary.num_samples} images of {summary.num_classes} classes in {len(summary.shards)} shard(s): "
            f"{summary.shards[0]} …"
        )
