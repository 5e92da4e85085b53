"""Options of baking. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from ...artifacts_schema.locking import LOCK_TIMEOUT_S
from ..options import (
    Group,
    JoinOptions,
    LockTimeout,
    OnBadImage,
    OnOtherPixels,
    Option,
    Overwrite,
    RemoteOptions,
    RuntimeOptions,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOptions(Group):
    """Options of the processes that bake."""

    panel: ClassVar[str] = "Runtime"

    workers: Annotated[
        int | None, Option(help="Processes that bake. Default: this process's share of the cores, at most 8.", min=0)
    ] = None
    stall_timeout_s: Annotated[
        float, Option(help="End if reading gives nothing for so many seconds, and say what it waited for.", above=0)
    ] = 1800.0
    rank_timeout_s: Annotated[
        float,
        Option(help="Under torchrun: end if another process gives no answer for so many seconds.", above=0),
    ] = 2400.0

    @property
    def runtime(self) -> RuntimeOptions:
        """The same as the options of a command that computes, on the CPU."""
        return RuntimeOptions(
            workers=self.workers,
            device="cpu",
            stall_timeout_s=self.stall_timeout_s,
            rank_timeout_s=self.rank_timeout_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BakeConfig(Group):
    """Options of `dataltt bake`. `BakeConfig.of(tickets=…, patches=…)` makes one of plain names."""

    tickets: Annotated[str, Option(help="Ticket store whose views are baked.", is_common=True)]
    shards: Annotated[
        str | None, Option(help="The images, in quotes. Default: where the store says they are.", is_common=True)
    ] = None
    out: Annotated[
        Path,
        Option(help="Folder to write.", is_common=True, instead_of_url="bake into a folder, and copy that"),
    ] = Path("baked")
    patches: Annotated[
        str,
        Option(
            help="Which patches of each view: kept (the ticket), all, or a share of all, which are the best by rank "
            "(0.7; for mixing).",
            metavar="kept|all|SHARE",
            is_common=True,
        ),
    ] = "kept"
    encoding: Annotated[
        Literal["raw", "jpeg"],
        Option(
            help="raw: pixels as they are. jpeg: patches side by side in a JPEG, a fifth of the bytes, and rounded."
        ),
    ] = "raw"
    jpeg_quality: Annotated[int, Option(help="Quality of jpeg.", min=1, max=100)] = 95
    num_views: Annotated[int | None, Option(help="Only the store's first so many views. Default: all.", min=1)] = None
    on_bad_image: OnBadImage = "error"
    on_other_pixels: OnOtherPixels = "error"
    overwrite: Overwrite = False
    lock_timeout_s: LockTimeout = LOCK_TIMEOUT_S
    joins: JoinOptions = JoinOptions()
    processes: ProcessOptions = ProcessOptions()
    remote: RemoteOptions = RemoteOptions()
