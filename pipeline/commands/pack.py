"""dataltt pack"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from ...artifacts_schema.errors import OptionError
from ...stages.options import Group, Option, Seed
from ..ends import is_said, say, warn
from ..options import takes
from ..progress import reporting

if TYPE_CHECKING:
    from ...stages.data.packing import PackSummary
    from ...stages.runtime.reporting import Reporter


@dataclass(frozen=True, slots=True, kw_only=True)
class PackConfig(Group):
    """Options of `dataltt pack`."""

    src: Annotated[
        Path,
        Option(
            help="Root of an ImageFolder tree: SRC/CLASS/IMAGE.jpg; with `from_shards`, shards (braces or a glob).",
            is_argument=True,
        ),
    ]
    out: Annotated[Path, Option(help="Folder for the shards and classes.json.", is_argument=True)]
    classes: Annotated[
        Path | None,
        Option(
            help="Number the classes as this classes.json does, the folder that holds one, or another tree. Default: "
            "the sorted order of SRC's own folders."
        ),
    ] = None
    max_count: Annotated[int, Option(help="Images per shard.", min=1)] = 1000
    name: Annotated[str, Option(help="Shards are called NAME-000000.tar, …")] = "train"
    shuffle: Annotated[bool, Option(help="Mix the classes before packing; a streaming trainer needs it.")] = True
    seed: Seed = 0
    from_shards: Annotated[
        bool,
        Option(help="Write the shards SRC anew, under their names: members of a sample together, keys as they are."),
    ] = False
    key_from: Annotated[
        Literal["first-dot", "last-dot"],
        Option(help="With `from_shards`: a key ends at the first dot of a file's name, or the last; others become _."),
    ] = "first-dot"
    prefix_keys: Annotated[
        bool, Option(help="With `from_shards`: put the shard's name before each key, where keys begin anew in each.")
    ] = False

    def __post_init__(self) -> None:
        Group.__post_init__(self)
        if self.from_shards and self.classes is not None:
            raise OptionError("`classes` numbers the folders of a tree, and `from_shards` keeps labels; leave one out")
        if not self.from_shards and (self.prefix_keys or self.key_from != "first-dot"):
            raise OptionError(
                "`prefix_keys` and `key_from` are about keys of shards; give `from_shards`, or leave them out"
            )


@takes(PackConfig)
def pack(config: PackConfig, as_json: bool) -> None:
    """Pack an ImageFolder tree into WebDataset shards; images are copied as they are.

    Linked folders are followed. Hidden folders and files, and files of other kinds than jpg, png and webp are left out
    and counted. Other trees of the same classes are numbered by the first one's list: --classes shards/classes.json.

    Example: dataltt pack imagenet/train shards --name train
    """
    from ...stages.data.image_folder import described

    with reporting() as reporter:
        summary = _packed(config, reporter)
    if is_said(as_json, lambda: asdict(summary)):
        return
    of_classes = f" of {summary.num_classes} classes" if summary.num_classes else ""
    say(f"{summary.num_samples} images{of_classes} in {len(summary.shards)} shard(s): {summary.shards[0]} …")
    if summary.left_out:
        warn(f"left out: {described(summary.left_out)}")


def _packed(c: PackConfig, reporter: Reporter) -> PackSummary:
    if c.from_shards:
        from ...stages.data.regrouping import regroup_shards

        return regroup_shards(str(c.src), c.out, key_from=c.key_from, prefix_keys=c.prefix_keys, reporter=reporter)
    from ...stages.data.packing import pack_image_folder

    return pack_image_folder(
        c.src,
        c.out,
        name=c.name,
        max_count=c.max_count,
        shuffle=c.shuffle,
        seed=c.seed,
        classes=c.classes,
        reporter=reporter,
    )
