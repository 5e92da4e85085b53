"""dataltt push"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from ...artifacts_schema.locking import LOCK_TIMEOUT_S
from ...stages.options import Group, LockTimeout, Option, RemoteOptions
from ..ends import print_json, say, warn
from ..options import takes
from ..progress import reporting, steps_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PushConfig(Group):
    """Options of `dataltt push`."""

    store: Annotated[
        Path,
        Option(
            help="The ticket store, or a baked folder.",
            is_argument=True,
            instead_of_url="fetch it first: dataltt pull URL",
        ),
    ]
    url: Annotated[
        str,
        Option(
            help="Where it goes: s3://BUCKET/…, gs://BUCKET/…, hf://datasets/OWNER/NAME, a folder, or a file x.zip.",
            is_argument=True,
        ),
    ]
    private: Annotated[bool, Option(help="If a repository of the hub must be made, make a private one.")] = False
    with_pixels: Annotated[
        bool, Option(help="Send a baked folder: the licence of the data set lets its pixels be passed on.")
    ] = False
    overwrite: Annotated[bool, Option(help="Replace a store of other tickets that is there.")] = False
    lock_timeout_s: LockTimeout = LOCK_TIMEOUT_S
    remote: RemoteOptions = RemoteOptions()


@takes(PushConfig)
def push(config: PushConfig, as_json: bool) -> None:
    """Publish a ticket store: send it to a bucket, the hub, a folder or a zip file, and check what arrived.

    The store here is checked first. Objects go first and the root document last, so that half an upload is no store.
    Interrupted or repeated, it sends only what is missing or differs. Where the shards lie on this machine is not sent.

    A card (README.md) goes with it; if the store has none, one is written. dataltt card gives it a licence. A baked
    folder is pixels, which stay under the licence of the data set: it is sent only by --with-pixels.

    Example: dataltt push store.zarr hf://datasets/lab/imagenet-tickets --private
    """
    from ...artifacts_schema.baked import is_baked, read_baked
    from ...artifacts_schema.layout import CARD_FILE
    from ...artifacts_schema.publishing.push import push as run
    from ..reports.baked_card import baked_card
    from ..reports.card import card_of

    location = config.remote.location(config.url)
    url = config.url if location.is_remote else None
    if is_baked(config.store):
        card, said = {CARD_FILE: baked_card(read_baked(config.store), url).encode()}, ""
    else:
        card, said = card_of(config.store, url)
    if said:
        warn(said)
    with reporting() as reporter, steps_of(reporter) as advance:
        result = run(
            config.store,
            location,
            card,
            overwrite=config.overwrite,
            private=config.private,
            with_pixels=config.with_pixels,
            lock_timeout_s=config.lock_timeout_s,
            on_progress=advance,
        )
    if as_json:
        print_json(asdict(result))
        return
    what = f"{result.num_sent} file(s) sent ({result.bytes_sent:,} bytes), {result.num_skipped} there already"
    say(f"{result.url}: {what}; all compared there; tickets {result.ticket_digest}")
