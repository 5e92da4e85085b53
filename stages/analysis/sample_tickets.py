"""A few images with their tickets, for people to look at."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...artifacts_schema import Location, Manifest, read_manifest
from ...artifacts_schema.tickets import unpack_mask
from ..data.drawing import PolicyViews
from ..data.images import center_crop, decode_image
from ..data.join import JoinConfig, Ticket, TicketJoin
from ..data.policies import replayed_policy
from ..data.shards import iter_samples, resolve_shards


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
    manifest: Manifest = read_manifest(store)
    join = TicketJoin(JoinConfig(store=store, geometry=True, views=range(1)))
    shard = resolve_shards(shards, Location.of(store).access)[0]
    skipped_keys = manifest.skipped_keys
    samples = (s for s in iter_samples(shard) if s.key not in skipped_keys)
    drawn = None
    if manifest.view.kind == "replay":
        policy = replayed_policy(manifest.view, str(store), allow_other_pixels=True)
        drawn = PolicyViews(policy, manifest.view, manifest.image_px)
    found = []
    for sample, ticket in itertools.islice(join.join(shard, samples), count):
        image = decode_image(sample, manifest.view.mode, "mend the shard")
        mask = unpack_mask(ticket.packed[0], manifest.num_patches).reshape(manifest.grid)
        view = _first_view(image, sample.key, ticket, manifest, drawn)
        found.append(SampleTicket(key=sample.key, label=sample.label, image=view, mask=mask))
    return found


def _first_view(
    image: Image.Image, key: str, ticket: Ticket, manifest: Manifest, drawn: PolicyViews | None
) -> Image.Image:
    if drawn is None or ticket.boxes is None or ticket.flips is None:
        return center_crop(image, manifest.view, manifest.image_px)
    return drawn.show(image, ticket.boxes[0], bool(ticket.flips[0]), manifest.view.seed, key, 0).image
