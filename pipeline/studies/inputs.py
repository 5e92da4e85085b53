"""Options of a study. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ...artifacts_schema.errors import OptionError
from ...stages.options import Group, Option, RuntimeOptions
from ...stages.weight_lottery.config import Seeds


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyInputs(Group):
    """Inputs of a study: where to work, on what, and how often."""

    out: Annotated[Path | None, Option(help="Folder of the study. Default: studies/NAME.", is_common=True)] = None
    seeds: Seeds = (0, 1, 2)
    shards: Annotated[str | None, Option(help="Training shards, in quotes.", is_common=True)] = None
    test_shards: Annotated[str | None, Option(help="Test shards, in quotes.", is_common=True)] = None
    checkpoint: Annotated[
        Path | None,
        Option(help="The selector's weights to start from. Default: timm's pretrained ones.", is_common=True),
    ] = None
    num_views: Annotated[int | None, Option(help="Views per image (the paper's studies). Default: 16.", min=1)] = None
    batch_size: Annotated[int | None, Option(help="Per process. Default: the study's.", min=1)] = None
    runtime: RuntimeOptions = RuntimeOptions()

    @property
    def folder(self) -> Path:
        """The study's folder, once it has one."""
        assert self.out is not None  # of_study has filled it in
        return self.out

    def of_study(self, name: str) -> StudyInputs:
        """The same with a folder."""
        return self if self.out is not None else self.but(out=Path("studies") / name.replace("-", "_"))

    def needs(self, study: str, *names: str) -> None:
        """Refuses to begin without these, or with shards that are not there.

        Raises:
            OptionError, ShardError
        """
        from ...stages.data.shards import resolve_shards

        missing = [f"`{name}`" for name in names if getattr(self, name) is None]
        if missing:
            raise OptionError(f"the study {study} needs {', '.join(missing)}; see dataltt study {study} --describe")
        for spec in (self.shards, self.test_shards):
            if spec is not None:
                resolve_shards(spec)  # refused now rather than after hours
