"""dataltt pack"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from ...stages.options import Group, Option, Seed
from ..ends import is_said, say
from ..options import takes
from ..progress import reporting


@dataclass(frozen=True, slots=True, kw_only=True)
class PackConfig(Group):
    """Options of `dataltt pack`."""

    src: Annotated[Path, Option(help="Root of an ImageFolder tree: SRC/CLASS/IMAGE.jpg.", is_argument=True)]
    out: Annotated[Path, Option(help="Folder for the shards and classes.json.", is_argument=True)]
    max_count: Annotated[int, Option(help="Images per shard.", min=1)] = 1000
    name: Annotated[str, Option(help="Shards are called NAME-000000.tar, …")] = "train"
    shuffle: Annotated[bool, Option(help="Mix the classes before packing; a streaming trainer needs it.")] = True
    seed: Seed = 0


@takes(PackConfig)
def pack(config: PackConfig, as_json: bool) -> None:
    """Pack an ImageFolder tree into WebDataset shards; images are copied as they are.

    Example: dataltt pack imagenet/train shards --name train
    """
    from ...stages.data.packing import pack_image_folder

    c = config
    with reporting() as reporter:
        summary = pack_image_folder(
            c.src, c.out, name=c.name, max_count=c.max_count, shuffle=c.shuffle, seed=c.seed, reporter=reporter
        )
    if is_said(as_json, lambda: asdict(summary)):
        return
    say(
        f"{summary.num_samples} images of {summary.num_classes} classes in {len(summary.shards)} shard(s): "
        f"{summary.shards[0]} …"
    )
