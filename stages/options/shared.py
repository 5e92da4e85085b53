"""Options that several commands take: sets of choices, single options, and groups."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from ...artifacts_schema.access.location import DEFAULT_CACHE_GB, Access, Location
from ...artifacts_schema.errors import OptionError
from .declaration import Group
from .values import Option, whole_numbers

if TYPE_CHECKING:
    from ...artifacts_schema.manifest import Publication

# ---- Choices. One name each, here and in every signature.

Subset = Literal["ticket", "random", "fixed-random", "inverse", "center", "dense"]
# `resize`: the whole view, made so small that its grid has about as many patches as a ticket.
Control = Literal["ticket", "random", "fixed-random", "inverse", "center", "resize", "dense"]
# `own`: patches that the student's own attention chooses.
EvalProtocol = Literal["ticket", "random", "center", "resize", "dense", "own"]
ViewMode = Literal["static", "replay", "warp"]
PatchInput = Literal["zero", "small-dense"]
TokenTargets = Literal["store", "image"]
Precision = Literal["fp32", "bf16"]
Decoder = Literal["torchvision", "pillow"]
DEFAULT_DECODER: Decoder = "torchvision"
ErrorOrSkip = Literal["error", "skip"]
ErrorOrAllow = Literal["error", "allow"]


def subset_of(shown: Control | EvalProtocol) -> Subset:
    """Patches of a view that are given to a student which is trained or tested on `shown`."""
    return "dense" if shown in ("own", "resize") else cast(Subset, shown)


# ---- Single options that several commands take

OnBadImage = Annotated[
    ErrorOrSkip,
    Option(help="An image that cannot be decoded: stop, or count and leave it out.", on_resume="unskipped"),
]
OnChangedImage = Annotated[
    ErrorOrAllow,
    Option(
        help="An image with other bytes than its ticket was made from: stop, or allow re-encoded copies.",
        on_resume="free",
    ),
]
OnOtherPixels = Annotated[
    ErrorOrAllow,
    Option(
        help="Stored views that this installation's libraries draw otherwise: stop, or allow other colours.",
        on_resume="free",
    ),
]
Shards = Annotated[
    str | None,
    Option(
        help="WebDataset shards: braces or a glob (in quotes), or a URL. Default: $DATALTT_SHARDS, else [data] shards "
        "in dataltt.toml.",
        is_common=True,
        variable="DATALTT_SHARDS",
        on_resume="place",
    ),
]
DecoderChoice = Annotated[
    Decoder | None,
    Option(
        help="What decodes and resizes pictures: torchvision (the faster), or pillow (timm's own evaluation, to the "
        "pixel). Default: that of the tickets or the run, else torchvision.",
        on_resume="added",  # runs that were begun before there was a choice say nothing
    ),
]
Seed = Annotated[int, Option(help="Seed of all random draws.")]
Checkpoint = Annotated[
    Path | None,
    Option(
        help="Weights (.safetensors or .pth), or a run's folder (of fit-selector, train). Default: timm's pretrained "
        "ones.",
        is_common=True,
        on_resume="place",
    ),
]
ImagePx = Annotated[
    int | None,
    Option(
        help="Side of the images that the network takes, a multiple of its patches'; position embeddings are "
        "resampled. Default: that of the tickets or the run, else the network's own.",
        min=1,
        max=4096,
    ),
]
Overwrite = Annotated[bool, Option(help="Replace what an earlier call made.")]
LockTimeout = Annotated[
    float,
    Option(
        help="A process on another machine that writes to the same place is taken for dead after so many seconds "
        "without a sign of life.",
        min=30,
        on_resume="unrecorded",
    ),
]
MinCrop = Annotated[
    float | None,
    Option(help="Smallest crop, as a share of the image's area. Default: the policy's.", above=0, max=1),
]

# ---- Groups that several commands take


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceOptions(Group):
    """Options of where a command runs, and how long it waits."""

    panel: ClassVar[str] = "Runtime"

    workers: Annotated[
        int | None,
        Option(
            help="Loader processes. Default: this process's share of the cores, at most 8.", min=0, on_resume="free"
        ),
    ] = None
    device: Annotated[str, Option(help="auto, cpu, cuda, cuda:N or mps.", on_resume="free")] = "auto"
    stall_timeout_s: Annotated[
        float,
        Option(
            help="End if reading gives no next batch for so many seconds, and say what it waited for.",
            above=0,
            on_resume="unrecorded",
        ),
    ] = 1800.0
    rank_timeout_s: Annotated[
        float,
        Option(
            help="Under torchrun: end if another process gives no answer for so many seconds.",
            above=0,
            on_resume="unrecorded",
        ),
    ] = 2400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions(PlaceOptions):
    """Options of where and how exactly a command runs."""

    precision: Annotated[Precision, Option(help="Arithmetic of the forward pass; bf16 is faster, and rounds.")] = "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions(Group):
    """Options of where downloads are kept."""

    panel: ClassVar[str] = "Remote stores and shards"

    cache_dir: Annotated[
        Path | None,
        Option(
            help="Folder of what was downloaded. Default: $DATALTT_CACHE, else ~/.cache/dataltt.",
            variable="DATALTT_CACHE",
            on_resume="unrecorded",
        ),
    ] = None
    cache_gb: Annotated[
        float,
        Option(
            help="Gigabytes that it may take; what was not used for longest goes first. Or $DATALTT_CACHE_GB.",
            above=0,
            variable="DATALTT_CACHE_GB",
            on_resume="unrecorded",
        ),
    ] = DEFAULT_CACHE_GB

    @property
    def access(self) -> Access:
        """Access to remote places by this cache alone."""
        return Access(cache_dir=self.cache_dir, cache_gb=self.cache_gb)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOptions(Group):
    """Options of how stores and shards behind URLs are reached and kept."""

    panel: ClassVar[str] = "Remote stores and shards"

    storage_option: Annotated[
        tuple[str, ...],
        Option(
            help="For the place that a URL names: endpoint_url, anon, profile, token, … May be given several times.",
            metavar="KEY=VALUE",
            on_resume="unrecorded",  # it may be a secret
        ),
    ] = ()
    downloads: CacheOptions = CacheOptions()

    @property
    def access(self) -> Access:
        """The ways to remote places that these options are.

        Raises:
            OptionError: a storage option that is no KEY=VALUE.
        """
        pairs = [each.partition("=") for each in self.storage_option]
        for key, is_pair, _ in pairs:
            if not key or not is_pair:
                raise OptionError(
                    f"`storage_option={key!r}` should be KEY=VALUE, as in endpoint_url=https://s3.lab.org"
                )
        return replace(self.downloads.access, storage_options=tuple((key, value) for key, _, value in pairs))

    def location(self, place: str | Path) -> Location:
        """A store's place with the way to it."""
        return Location.of(str(place), self.access)


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinOptions(Group):
    """Options of what to do with samples that do not fit the ticket store."""

    panel: ClassVar[str] = "Joining tickets"

    on_missing_ticket: Annotated[
        ErrorOrSkip,
        Option(help="Samples without a ticket: stop before the first step, or leave them out.", on_resume="unskipped"),
    ] = "error"
    on_changed_image: OnChangedImage = "error"
    recount: Annotated[
        bool,
        Option(
            help="Look into each shard instead of trusting the store's counts and the indices that were kept.",
            on_resume="free",
        ),
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeOptions(Group):
    """Options of how many patches a selector keeps, and where it drops the others: one of `ratio`, `keep_rate`."""

    panel: ClassVar[str] = "Patches kept"

    ratio: Annotated[float | None, Option(help="Final share of patches kept, in (0, 1].", is_common=True)] = None
    keep_rate: Annotated[
        float | None, Option(help="Or: share kept at each drop block, as upstream.", is_common=True)
    ] = None
    drop_blocks: Annotated[
        tuple[int, ...] | None,
        Option(
            help="Zero-based blocks that drop patches, e.g. 3,6,9 (the default of 12 blocks).",
            parser=whole_numbers,
            metavar="N,N,…",
        ),
    ] = None

    @property
    def spelled(self) -> str:
        """Spells those that are given as messages spell options."""
        given = [*self._dials(), ("drop_blocks", self.drop_blocks)]
        return " ".join(f"`{name}={value!r}`" for name, value in given if value is not None)

    @property
    def as_word(self) -> str:
        """The dial's number, for the names of files."""
        return "".join(f"{value:g}" for _, value in self._dials() if value is not None)

    def _dials(self) -> tuple[tuple[str, float | None], ...]:
        return ("ratio", self.ratio), ("keep_rate", self.keep_rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicationOptions(Group):
    """Options of what a store says to those it is shared with."""

    panel: ClassVar[str] = "Publication"

    license: Annotated[
        str | None, Option(help="Licence of the tickets, by its SPDX name: CC-BY-4.0.", on_resume="free")
    ] = None
    citation: Annotated[str | None, Option(help="How to cite them: a sentence, or BibTeX.", on_resume="free")] = None
    author: Annotated[
        tuple[str, ...], Option(help="Who made them; may be given again.", metavar="NAME", on_resume="free")
    ] = ()
    homepage: Annotated[str | None, Option(help="Where there is more about them.", on_resume="free")] = None
    data_license: Annotated[
        str | None, Option(help="Licence of the images, by its SPDX name; not that of the tickets.", on_resume="free")
    ] = None

    def over(self, before: Publication | None = None) -> Publication | None:
        """Facts that a manifest gave before, with what is given here in their place; None where neither says anything.

        Raises:
            OptionError: a text that says nothing.
        """
        from ...artifacts_schema.manifest import Publication  # imports pydantic

        given = {"license": self.license, "citation": self.citation, "homepage": self.homepage}
        given |= {"data_license": self.data_license}
        for name, text in [*given.items(), *(("author", each) for each in self.author)]:
            if text is not None and not text.strip():
                raise OptionError(f"`{name}` is empty; leave it out, or give a text")
        changes: dict[str, Any] = {name: text.strip() for name, text in given.items() if text is not None}
        if self.author:
            changes["authors"] = [name.strip() for name in self.author]
        return replace(before or Publication(), **changes) if changes else before
