"""The manifest of a ticket store: one JSON document, validated whole, every problem reported with its place."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from .adaptive import Adaptive
from .errors import Problem, SchemaError, UnsupportedVersionError
from .identity import checksum_of, sealed, ticket_digest_of, version_of
from .tickets import MAX_PATCHES
from .token_labels import MAX_CLASSES, TOP_K

SCHEMA_VERSION = "1.2"
NEWEST_VERSION = "2.0"  # of stores with what older readers would misread, `needed_version`
SUPPORTED_MAJORS = ("1", "2")
MANIFEST_ATTRIBUTE = "dataltt"

MAX_OBJECT_BYTES = 1 << 32
MAX_VIEW_PATCHES = 1 << 22  # patches of all views of an image: the most that a row is read of
_MAX_PROBLEMS = 20  # that are listed
_MAX_PART = 100  # characters of a name that are shown
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
_ADAPTER = TypeAdapter(Manifest)
_OBJECT_PATH = re.compile(r"^(?:[A-Za-z0-9_.-]+/)*[A-Za-z0-9_.-]+$")


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


def parse_manifest(document: Any, store: str) -> Manifest:
    """Validates a manifest document whole; `store` is only named in errors.

    Fields unknown to this minor version are ignored.

    Raises:
        UnsupportedVersionError: the document's major version is not ours.
        SchemaError: anything else, with every problem found.
    """
    if not isinstance(document, Mapping):
        problem = Problem(where="manifest", kind="dict_type", message="should be a JSON object")
        raise SchemaError(store, [problem])
    version = document.get("schema_version")
    if isinstance(version, str) and version.split(".")[0] not in SUPPORTED_MAJORS:
        raise UnsupportedVersionError(store, version, SUPPORTED_MAJORS)
    if "checksum" in document and document["checksum"] != (_checksum(document) or "no text"):
        problem = Problem(
            where="checksum",
            kind="checksum",
            message="is not that of this manifest: it is damaged or was changed by hand; fetch the store again",
        )
        raise SchemaError(store, [problem])
    try:
        # JSON mode: strict about types (no "3" for 3), while lists may fill tuples.
        manifest = _ADAPTER.validate_json(json.dumps(document), strict=True)
    except ValidationError as error:
        problems = [
            Problem(
                where=".".join(map(_shown, detail["loc"])) or "manifest",
                kind=detail["type"],
                message=detail["msg"][0].lower() + detail["msg"][1:],
            )
            for detail in error.errors(include_url=False, include_context=False, include_input=False)[:_MAX_PROBLEMS]
        ]
        raise SchemaError(store, problems) from None
    problems = list(_cross_field_problems(manifest)) or list(_identity_problems(manifest, document))
    if problems:
        raise SchemaError(store, problems)
    return manifest


def _checksum(document: Mapping[str, Any]) -> str | None:
    """The checksum that a document should have; None of one with text that is no Unicode."""
    try:
        return checksum_of(document)
    except UnicodeEncodeError:
        return None


def _shown(part: int | str) -> str:
    """A part of a place in the document: on one line, and not long, whatever it is called there."""
    text = str(part)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= _MAX_PART else f"{text[:_MAX_PART]}…"


_AUGMENT_PROBLEM = "should give the name (text), version and seed (whole numbers) of the policy of replayed views"


def _names_a_policy(augment: Mapping[str, Any] | None) -> bool:
    kinds = {"name": str, "version": int, "seed": int}
    return augment is not None and all(type(augment.get(key)) is kind for key, kind in kinds.items())


def _cross_field_problems(m: Manifest) -> list[Problem]:
    checks = [
        (
            "num_views",
            m.num_views * m.num_patches <= MAX_VIEW_PATCHES,
            f"are more than {MAX_VIEW_PATCHES} patches an image",
        ),
        ("num_patches", m.num_patches == m.grid[0] * m.grid[1], "should be the product of grid"),
        ("image_px", m.image_px == m.grid[0] * m.patch_px, "should be grid[0] · patch_px"),
        ("num_keep", m.num_keep <= m.num_patches, "should be at most num_patches"),
        *(_cascade_checks(m) if m.selector.name is None else _scorer_checks(m.selector)),
        *(() if m.adaptive is None else _adaptive_checks(m, m.adaptive)),
        ("view.augment", m.view.kind == "center" or _names_a_policy(m.view.augment), _AUGMENT_PROBLEM),
        ("view.std", len(m.view.std) == len(m.view.mean), "should be as long as mean"),
        ("dataset.shards", len(set(m.dataset.shards)) == len(m.dataset.shards), "should not repeat a name"),
        (
            "objects",
            all(_OBJECT_PATH.match(p) and ".." not in p.split("/") for p in m.objects),
            "should name objects inside the store",
        ),
    ]
    return [Problem(where=where, kind="inconsistent", message=text) for where, ok, text in checks if not ok]


_Checks = list[tuple[str, bool, str]]


def _cascade_checks(m: Manifest) -> _Checks:
    s, counts, blocks = m.selector, m.selector.keep_counts, m.selector.drop_blocks
    return [
        ("selector.model", s.model is not None, "should name the model"),
        ("selector.weights_sha256", s.weights_sha256 is not None, "should be the digest of the weights"),
        ("selector.keep_counts", counts[-1:] == [_selected_num_keep(m)], "should end with num_keep"),
        ("selector.keep_counts", counts == sorted(counts, reverse=True), "should not increase"),
        ("selector.drop_blocks", len(blocks) == len(counts), "should have one entry per keep count"),
        ("selector.drop_blocks", blocks == sorted(set(blocks)), "should increase"),
        ("selector", (s.ratio is None) != (s.keep_rate is None), "should have one of ratio and keep_rate"),
    ]


def _scorer_checks(s: Selector) -> _Checks:
    """Checks of a selector that is not the cascade."""
    return [
        ("selector", not s.drop_blocks and not s.keep_counts, f"should have no drop blocks and keep counts: {s.name}"),
        ("selector.ratio", s.ratio is not None and s.keep_rate is None, "should be given, and no keep_rate"),
        ("selector.model", (s.model is None) == (s.weights_sha256 is None), "should go with weights_sha256"),
    ]


def _adaptive_checks(m: Manifest, a: Adaptive) -> _Checks:
    return [
        ("adaptive.least_keep", a.least_keep <= m.num_keep, "should be at most num_keep"),
        ("adaptive", m.thinned is None, "should not be cut down (thinned)"),
    ]


def _selected_num_keep(m: Manifest) -> int:
    return m.num_keep if m.thinned is None else m.thinned.selected_num_keep


def _identity_problems(m: Manifest, document: Mapping[str, Any]) -> Iterator[Problem]:
    """Finds what is wrong with the fields that came after 1.1."""
    version = version_of({"schema_version": m.schema_version})
    is_sealed = version >= (1, 2)
    checks = [
        ("schema_version", version != (0, 0), "should be two numbers, as in 1.2"),
        ("checksum", m.checksum is not None or not is_sealed, "is missing"),
        (
            "ticket_digest",
            m.ticket_digest == (ticket_digest_of(document) if is_sealed else None),
            "is not that of these tickets",
        ),
        ("sizes", set(m.sizes) == (set(m.objects) if is_sealed else set()), "should give the size of every object"),
        ("thinned", m.thinned is None or version >= (2, 0), f"needs schema version {NEWEST_VERSION}"),
        ("adaptive", m.adaptive is None or version >= (2, 0), f"needs schema version {NEWEST_VERSION}"),
        (
            "view.decoder",
            m.view.decoder_name == "pillow" or version >= (2, 0),
            f"needs schema version {NEWEST_VERSION}",
        ),
        ("selector.name", m.selector.name is None or version >= (2, 0), f"needs schema version {NEWEST_VERSION}"),
        ("thinned", m.num_keep < _selected_num_keep(m) or m.thinned is None, "should have kept more than num_keep"),
    ]
    return (Problem(where=where, kind="inconsistent", message=text) for where, ok, text in checks if not ok)
