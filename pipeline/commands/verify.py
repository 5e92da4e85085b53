"""dataltt verify"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...stages.options import Group, Option, RemoteOptions
from ..ends import print_json
from ..escaping import shown
from ..messages import as_flags
from ..options import takes
from ..progress import reporting

if TYPE_CHECKING:
    from ...artifacts_schema.verify import Check


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyConfig(Group):
    """Options of `dataltt verify`."""

    store: Annotated[
        str, Option(help="A ticket store: a folder, a zip file, or a URL; or a baked folder.", is_argument=True)
    ]
    shards: Annotated[
        str | None, Option(help="Check also that these shards hold the images that the tickets are of.")
    ] = None
    remote: RemoteOptions = RemoteOptions()


@takes(VerifyConfig)
def verify(config: VerifyConfig, as_json: bool) -> None:
    """Check everything that can be checked about a ticket store or baked folder; exit 0 only if all of it holds.

    Example: dataltt verify store.zarr --shards 'imagenet/train-*.tar'
    """
    from ...artifacts_schema.baked import is_baked

    store, shards = config.store, config.shards
    if is_baked(Path(store)):
        _end(store, _checks_of_baked(Path(store), shards), as_json)
        return
    location = config.remote.location(store)
    from ...artifacts_schema import DatalttError, TicketStore
    from ...artifacts_schema.verify import verify_store
    from ...stages.data.fetching import fetch_store
    from ...stages.selection.verify_shards import verify_shards

    with reporting() as reporter:
        if location.is_remote:
            with contextlib.suppress(DatalttError):  # the checks say what is wrong
                fetch_store(TicketStore.open(location), reporter)
        reporter.start("checking rows", None, "rows")
        seen = 0

        def advance(done: int, total: int) -> None:
            nonlocal seen
            reporter.advance(done - seen)
            seen = done

        checks = list(verify_store(location, advance))
        reporter.finish()
        if shards is not None and all(c.ok for c in checks):
            checks.append(verify_shards(location, shards, reporter))
    _end(store, checks, as_json, was_compared=shards is None or any(c.name == "shards" for c in checks))


def _checks_of_baked(folder: Path, shards: str | None) -> list[Check]:
    from ...artifacts_schema import OptionError
    from ...stages.baking.verify_baked import verify_baked

    if shards is not None:
        raise OptionError(f"`shards`: {folder} is baked, and its pixels are its own; leave them out")
    with reporting() as reporter:
        reporter.start("checking samples", None, "views")
        checks = list(verify_baked(folder, reporter.advance))
        reporter.finish()
    return checks


def _end(store: str, checks: list[Check], as_json: bool, *, was_compared: bool = True) -> None:
    if as_json:
        print_json({"store": store, "ok": all(c.ok for c in checks), "checks": [asdict(c) for c in checks]})
    else:
        for check in checks:
            mark = typer.style("ok    ", fg="green") if check.ok else typer.style("FAILED", fg="red")
            typer.echo(f"{mark} {check.name}: {shown(as_flags(check.detail))}")
        if not was_compared:
            typer.echo("       shards: not compared, since the store itself is not sound")
    if not all(c.ok for c in checks):
        raise typer.Exit(1)
