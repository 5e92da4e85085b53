"""dataltt verify"""

from __future__ import annotations

from typing import Annotated

import typer

from ..options import Json, print_json
from ..progress import reporting


def verify(
    store: Annotated[str, typer.Argument(help="A ticket store: a folder or an fsspec URL.")],
    shards: Annotated[
        str | None, typer.Option(help="Check also that these shards hold the images that the tickets are of.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check everything that can be checked about a ticket store; exit 0 only if all of it holds.

    Example: dataltt verify store.zarr --shards 'imagenet/train-*.tar'
    """
    from dataclasses import asdict

    from ...artifacts_schema.verify import verify_store
    from ...stages.selection.verify_shards import verify_shards

    with reporting() as reporter:
        reporter.start("checking rows", None, "rows")
        seen = 0

        def advance(done: int, total: int) -> None:
            nonlocal seen
            reporter.advance(done - seen)
            seen = done

        checks = list(verify_store(store, advance))
        reporter.finish()
        if shards is not None and all(c.ok for c in checks):
            checks.append(verify_shards(store, shards, reporter))
    if as_json:
        print_json({"store": store, "ok": all(c.ok for c in checks), "checks": [asdict(c) for c in checks]})
    else:
        for check in checks:
            mark = typer.style("ok    ", fg="green") if check.ok else typer.style("FAILED", fg="red")
            typer.echo(f"{mark} {check.name}: {check.detail}")
        if shards is not None and len(checks) and not any(c.name == "shards" for c in checks):
            typer.echo("       shards: not compared, since the store itself is not sound")
    if not all(c.ok for c in checks):
        raise typer.Exit(1)
