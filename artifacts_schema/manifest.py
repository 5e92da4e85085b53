"""The manifest of a ticket store: one JSON document, and what its fields may hold; manifest_parsing.py reads it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from .adaptive import Adaptive
from .identity import sealed, ticket_digest_of, version_of
from .tickets import MAX_PATCHES
from .token_labels import MAX_CLASSES, TOP_K

SCHEMA_VERSION = "1.2"
NEWEST_VERSION = "2.0"  # of stores with what older readers would misread, `needed_version`
MANIFEST_ATTRIBUTE = "dataltt"

MAX_OBJECT_BYTES = 1 << 32
MAX_VIEW_PATCHES = 1 << 22  # patches of all views of an image: the most that a row is read of
Count = Annotated[int, Field(ge=1, le=2**40)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=4096)]
Text = Annotated[str, Field(min_length=1, max_length=65_536)]
ShortText = Annotated[str, Field(max_length=4096)]
LongText = Annotated[str, Field(max_length=65_536)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
ObjectSize = Annotated[int, Field(ge=0, le=MAX_OBJECT_BYTES)]
Share = Annotated[float, Field(gt=0, le=1)]
Decoder = Literal["torchvision", "pillow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Selector that chose the tickets. One of `ratio` (final kept share) and `keep_rate` (per drop block) is set.

    The cascade has no `name`. Any other selector scores all patches once: it has a name and `ratio`, no drop blocks and
    no keep counts, and a model and weights only where it looks at images with a network.
    """

    model: Name | None
    weights_sha256: Sha256 | None
    drop_blocks: list[Annotated[int, Field(ge=0, le=10_000)]]
    keep_counts: list[Annotated[int, Field(ge=1, le=MAX_PATCHES)]]
    precision: Literal["fp32", "bf16"]
    ratio: Share | None = None
    keep_rate: Share | None = None
    name: Name | None = None  # since 2.0
    settings: dict[Name, bool | int | Finite | ShortText] | None = None  # since 2.0
    package: ShortText | None = None  # since 2.0; name and version, of a selector that is not dataltt's own
    uses_labels: bool | None = None  # since 2.0; true where the images' labels had a say

    @property
    def title(self) -> str:
        """Words for who chose: the cascade's model, or the selector's name, with its model where it has one."""
        return " of ".join(part for part in (self.name, self.model) if part is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labeller:
    """Network that made the token labels, when, and of how many classes."""

    model: Name
    weights_sha256: Sha256
    num_classes: Annotated[int, Field(ge=TOP_K, le=MAX_CLASSES)]
    precision: Literal["fp32", "bf16"]
    tool_version: ShortText
    created: ShortText


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Steps by which an encoded image became the pixels that the selector saw.

    `center`: the shorter side is resized to `resize_px`, the central `image_px` square is cut out, and values in
    [0, 1] are normalised by `mean` and `std` (one per channel). `crop_share` is image_px / resize_px as configured.
    `replay` adds a crop box and flip per view (arrays views/boxes and views/flips); `augment` then says how they were
    drawn: at least the policy's `name`, its `version` and the `seed`. The other fields still describe the centre view,
    which is what students are tested on.

    `decoder` decoded and resized the images, in the versions of `decoder_libraries`; without it, Pillow did.
    """

    kind: Literal["center", "replay"]
    resize_px: Annotated[int, Field(ge=1, le=65_536)]
    crop_share: Share
    interpolation: Literal["bicubic", "bilinear", "nearest", "lanczos"]
    mean: Annotated[list[Annotated[Finite, Field(ge=0, le=1)]], Field(min_length=1, max_length=16)]
    std: Annotated[list[Annotated[Finite, Field(gt=0)]], Field(min_length=1, max_length=16)]
    augment: dict[str, Any] | None = None
    decoder: Decoder | None = None  # since 2.0; read it as `decoder_name`
    decoder_libraries: dict[Name, ShortText] | None = None  # since 2.0

    @property
    def decoder_name(self) -> Decoder:
        """The decoder that the pixels come from, of every version."""
        return self.decoder or "pillow"

    @property
    def num_channels(self) -> int:
        """Channels of the pixels, of which `mean` and `std` have one value each."""
        return len(self.mean)

    @property
    def mode(self) -> Literal["L", "RGB"]:
        """Mode that images are converted to before they are cut: L (grey) for one channel, else RGB."""
        return "L" if self.num_channels == 1 else "RGB"

    @property
    def policy_name(self) -> str | None:
        """Name of the policy that drew the views; None of the centre view."""
        name = (self.augment or {}).get("name")
        return name if isinstance(name, str) else None

    @property
    def seed(self) -> int | None:
        """Seed that the policy drew the views from; None of the centre view."""
        seed = (self.augment or {}).get("seed")
        return seed if isinstance(seed, int) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Source of the images. `keys_sha256` does not depend on how images are dealt to shards.

    `source` is empty since 1.2: where shards lie is a private matter, and stands in the store's local.json.
    """

    name: Name
    split: ShortText
    shards: list[Name]
    source: LongText
    keys_sha256: Sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """Facts for those whom a store is shared with. `license` is of the tickets, `data_license` of the images."""

    license: Text | None = None
    citation: Text | None = None
    authors: list[Text] = field(default_factory=list)
    homepage: Text | None = None
    data_license: Text | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinned:
    """Tickets that were cut down by ranks: approximate, where the selector itself kept `selected_num_keep` patches."""

    selected_num_keep: Annotated[int, Field(ge=1, le=MAX_PATCHES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedSample:
    """A sample that was left out because its image could not be decoded."""

    shard: Name
    key: Name
    reason: LongText


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The manifest; docs/store-format.md explains each field."""

    schema_version: str
    grid: tuple[Annotated[int, Field(ge=1, le=256)], Annotated[int, Field(ge=1, le=256)]]
    patch_px: Annotated[int, Field(ge=1, le=4096)]
    image_px: Annotated[int, Field(ge=1, le=65_536)]
    num_patches: Annotated[int, Field(ge=1, le=MAX_PATCHES)]
    num_keep: Annotated[int, Field(ge=1, le=MAX_PATCHES)]
    num_views: Annotated[int, Field(ge=1, le=4096)]
    num_images: Count
    has_ranks: bool
    selector: Selector
    view: View
    dataset: Dataset
    created: ShortText
    tool_version: ShortText
    skipped: list[SkippedSample] = field(default_factory=list)
    parent: list[dict[str, Any]] | None = None
    token_labels: Labeller | None = None  # since 1.1; None where the store has none
    objects: dict[str, Sha256] = field(default_factory=dict)
    sizes: dict[str, ObjectSize] = field(default_factory=dict)  # since 1.2, bytes of each of `objects`
    publication: Publication | None = None  # since 1.2
    thinned: Thinned | None = None  # since 2.0
    adaptive: Adaptive | None = None  # since 2.0; `num_keep` is then the most that a view keeps
    ticket_digest: Sha256 | None = None  # since 1.2; read it as `digest`, which older stores have as well
    checksum: Sha256 | None = None  # since 1.2

    @property
    def digest(self) -> str:
        """Ticket digest: SHA-256 (hex) over what decides the tickets. The store's name for itself, of every version."""
        return self.ticket_digest or ticket_digest_of(self._plain())

    @property
    def skipped_keys(self) -> frozenset[str]:
        """Keys of the samples that have no ticket since their image could not be decoded."""
        return frozenset(s.key for s in self.skipped)

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON types; since version 1.2 with its ticket digest and checksum."""
        document = self._plain()
        if version_of(document) >= (1, 2):
            return sealed(document)
        return {name: value for name, value in document.items() if name not in _SINCE_1_2}

    def _plain(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        if self.adaptive is None:
            del document["adaptive"]
        for part, since_2_0 in _SINCE_2_0.items():
            document[part] = {k: v for k, v in document[part].items() if v is not None or k not in since_2_0}
        return document

    def upgraded(self, sizes: Mapping[str, int]) -> Manifest:
        """The same in the version that this dataltt writes, or in its own later one.

        Args:
            sizes: bytes of each object.
        """
        needed = needed_version(self.view, self.selector, thinned=self.thinned, adaptive=self.adaptive)
        is_later = version_of({"schema_version": self.schema_version}) > version_of({"schema_version": needed})
        version = self.schema_version if is_later else needed
        dataset = dataclasses.replace(self.dataset, source="")
        return dataclasses.replace(self, schema_version=version, dataset=dataset, sizes=dict(sizes))


_SINCE_1_2 = frozenset({"sizes", "publication", "thinned", "ticket_digest", "checksum"})
_SINCE_2_0 = {
    "selector": frozenset({"name", "settings", "package", "uses_labels"}),
    "view": frozenset({"decoder", "decoder_libraries"}),
}


def needed_version(
    view: View, selector: Selector, *, thinned: Thinned | None = None, adaptive: Adaptive | None = None
) -> str:
    """The schema version that a store is written in: the newest where an older reader would misread its tickets."""
    is_misread = (
        thinned is not None,  # it would take the tickets for the selector's own
        view.decoder_name != "pillow",  # it would show other pixels
        selector.name is not None,  # it would look for a cascade
        adaptive is not None,  # it would find K bits in no ticket
    )
    return NEWEST_VERSION if any(is_misread) else SCHEMA_VERSION
