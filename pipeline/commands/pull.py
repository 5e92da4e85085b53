"""dataltt pull"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from ...artifacts_schema.locking import LOCK_TIMEOUT_S
from ...stages.options import Group, LockTimeout, Option, RemoteOptions
from ..ends import print_json, say
from ..options import takes
from ..progress import reporting, steps_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PullConfig(Group):
    """Options of `dataltt pull`."""

    url: Annotated[
        str,
        Option(
            help="The ticket store (or baked folder): http(s)://…, s3://…, gs://…, hf://datasets/OWNER/NAME, or a zip.",
            is_argument=True,
        ),
    ]
    store: Annotated[
        Path | None, Option(help="The folder to write. Default: named after the URL, here.", is_argument=True)
    ] = None
    overwrite: Annotated[bool, Option(help="Replace another one in that folder.")] = False
    lock_timeout_s: LockTimeout = LOCK_TIMEOUT_S
    remote: RemoteOptions = RemoteOptions()


@takes(PullConfig)
def pull(config: PullConfig, as_json: bool) -> None:
    """Fetch a whole ticket store, or baked folder; every object is checked against its SHA-256.

    It is there whole or not at all: what has come stands in FOLDER.pulling until then, and the same command goes on
    from it. To train on a store it need not be fetched: --tickets takes its URL.

    Example: dataltt pull hf://datasets/lab/imagenet-tickets
    """
    from ...artifacts_schema.publishing.pull import pull as run

    with reporting() as reporter, steps_of(reporter) as advance:
        result = run(
            config.remote.location(config.url),
            config.store,
            overwrite=config.overwrite,
            lock_timeout_s=config.lock_timeout_s,
            on_progress=advance,
        )
    if as_json:
        print_json(asdict(result))
        return
    what = f"{result.num_fetched} object(s) fetched ({result.bytes_fetched:,} bytes), {result.num_skipped} here already"
    say(f"{result.store}: {what}; tickets {result.ticket_digest}")
