"""dataltt card"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ...stages.options import Group, Option, PublicationOptions
from ..ends import print_json, say, warn
from ..options import takes

if TYPE_CHECKING:
    from ...artifacts_schema.manifest import Publication


@dataclass(frozen=True, slots=True, kw_only=True)
class CardConfig(Group):
    """Options of `dataltt card`."""

    store: Annotated[
        Path,
        Option(help="The ticket store: a folder.", is_argument=True, instead_of_url="fetch it first: dataltt pull URL"),
    ]
    url: Annotated[str | None, Option(help="Where it will be published, for the commands on the card.")] = None
    gallery: Annotated[bool, Option(help="Show images with their tickets, if `data_license` lets images be shown.")] = (
        False
    )
    shards: Annotated[str | None, Option(help="The shards that the gallery's images come from.")] = None
    publication: PublicationOptions = PublicationOptions()


@takes(CardConfig)
def card(config: CardConfig, as_json: bool) -> None:
    """Write a ticket store's card, README.md as the hub shows it, and put licence and citation into its manifest.

    The card says what is in the store, how to use it, where on the image tickets lie, how they were made, and under
    which licence they are. dataltt push sends it.

    Example: dataltt card store.zarr --license CC-BY-4.0 --author 'Ada Lovelace' --data-license CC-BY-4.0
    """
    from ...artifacts_schema import TicketStore, read_manifest
    from ...artifacts_schema.publishing.publication import publish_as
    from ...stages.analysis.sample_tickets import sample_tickets
    from ..reports.card import GALLERY_IMAGES, card_files, refuse_gallery, write_card

    before = read_manifest(config.store)
    publication = config.publication.over(before.publication)
    if config.gallery:
        refuse_gallery(publication)
    samples = sample_tickets(str(config.store), _shards(config), GALLERY_IMAGES) if config.gallery else []
    manifest = before if publication is None else publish_as(config.store, publication)
    files = card_files(TicketStore.open(config.store), url=config.url, gallery=samples)
    write_card(config.store, files)
    if as_json:
        said = manifest.to_json()["publication"] if publication is not None else None
        print_json({"store": str(config.store), "files": sorted(files), "publication": said})
        return
    say(f"{config.store}: wrote {', '.join(sorted(files))}; next: dataltt push {config.store} URL")
    _note_gaps(publication)


def _shards(config: CardConfig) -> str:
    from ...artifacts_schema import OptionError

    if config.shards is None:
        raise OptionError("`gallery=True` shows images; say by `shards` where they are")
    return config.shards


def _note_gaps(publication: Publication | None) -> None:
    """Says what a reader of the card will miss."""
    from ...artifacts_schema.publishing.licenses import hub_license

    license = None if publication is None else publication.license
    if license is None:
        warn("note: no licence is given, so nobody may use these tickets; say one by --license, e.g. CC-BY-4.0")
    elif hub_license(license) is None:
        warn(f"note: {license!r} is not on the hub's list of licences; there it is shown as 'other'")
