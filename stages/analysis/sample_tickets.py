"""A few images with their tickets, for people to look at."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...artifacts_schema import Location, read_manifest
from ...artifacts_schema.tickets import unpack_mask
from ..data.images import decode_image
from ..data.join import JoinConfig, TicketJoin
from ..data.shards import iter_samples, resolve_shards
from .shown_images import ShownImages
from .views_of_store import ViewsOfStore


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleTicket:
    """An image as the selector saw it (first view), and the patches it kept, bool [grid_h, grid_w]."""

    key: str
    label: int
    image: Image.Image
    mask: npt.NDArray[np.bool_]


def sample_tickets(store: str | Location, shards: str, count: int) -> list[SampleTicket]:
    """The first samples of the first shard, with their tickets.

    Raises:
        DatalttError: the shards do not fit the store.
    """
    manifest = read_manifest(store)
    join = TicketJoin(JoinConfig(store=store, geometry=True, views=range(1)))
    views = ViewsOfStore(manifest, str(store))
    shard = resolve_shards(shards, Location.of(store).access)[0]
    skipped_keys = manifest.skipped_keys
    samples = (s for s in iter_samples(shard) if s.key not in skipped_keys)
    found = []
    for sample, ticket in itertools.islice(join.join(shard, samples), count):
        image = decode_image(sample, manifest.view.mode, manifest.view.decoder_name, "mend the shard")
        mask = unpack_mask(ticket.packed[0], manifest.num_patches).reshape(manifest.grid)
        shown = views.show(image, sample.key, ticket, 0)
        found.append(SampleTicket(key=sample.key, label=sample.label, image=shown, mask=mask))
    return found


def spread_sample_tickets(
    store: str | Location, shards: str | None, count: int, *, seed: int = 0
) -> list[SampleTicket]:
    """Samples spread evenly over the store, with their tickets, in the store's order.

    Args:
        shards: None for those that the store was made from.
        seed: which they are; the same seed gives the same samples.

    Raises:
        DatalttError: the store or its shards cannot be opened, or do not fit each other.
    """
    images = ShownImages(store, shards)
    m = images.manifest
    found = sorted(images.read(images.choose(count, seed=seed)), key=lambda shown: shown.row)
    return [
        SampleTicket(
            key=shown.key,
            label=-1 if shown.label is None else shown.label,
            image=shown.views[0],
            mask=unpack_mask(shown.packed[0], m.num_patches).reshape(m.grid),
        )
        for shown in found
    ]
