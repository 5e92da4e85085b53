"""Baked folders: patches of stored views as WebDataset shards, and baked.json, which says what they are.

    baked.json            written last: without it, there is no baked folder
    classes.json          that of the source shards, if they had one
    view-000/NAME.tar     view 0 of each sample of source shard NAME, in its order; view-001/ …

Members of a sample, by the key that the ticket store has for it:

    KEY.patches   raw: uint8 [M, patch_px, patch_px, channels]
    KEY.jpg       or: the same patches side by side, `mosaic_size(M)` of them, row by row
    KEY.idx       uint16 [M], little-endian: their positions on the grid, ascending; not there where all patches are
    KEY.ranks     their ranks in the ticket, of the store's dtype (little-endian); there if the store has ranks
    KEY.kept      uint16 [K]: positions of the ticket; there if all patches are, and the store has no ranks
    KEY.cls       the label, decimal digits

Letters: P patches of the grid, K of a ticket, M of a baked sample.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from .documents import MAX_DOCUMENT_BYTES, too_large
from .errors import BakedError, SchemaError
from .files import read_regular
from .identity import checksum_of
from .manifest import Count, Manifest, Name, Sha256, ShortText
from .manifest_parsing import parse_manifest

BAKED_FILE = "baked.json"
FORMAT_VERSION = "1.0"

BakedPatches = Literal["kept", "share", "all"]
BakedEncoding = Literal["raw", "jpeg"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BakedFile:
    """A file of the folder: a tar of one view of one source shard, or classes.json. `path` is inside the folder."""

    path: Name
    num_bytes: Count
    sha256: Sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class BakedShard:
    """A source shard, by its name, and its files, one for each view."""

    name: Name
    num_samples: Annotated[int, Field(ge=0, le=2**40)]
    files: list[BakedFile]


@dataclass(frozen=True, slots=True, kw_only=True)
class BakedManifest:
    """The content of baked.json.

    Attributes:
        patches: which of each view: its ticket (`kept`), a larger share by rank, or all.
        num_baked: patches of each sample, M.
        quality: of JPEG; None of raw pixels.
        num_views: the store's first so many.
        highest_label: of all samples.
        classes: classes.json, if the source shards had one.
        libraries: versions that drew and encoded the pixels.
        tickets: the store's manifest.
    """

    format_version: ShortText
    patches: BakedPatches
    num_baked: Annotated[int, Field(ge=1, le=65_536)]
    encoding: BakedEncoding
    quality: Annotated[int, Field(ge=1, le=100)] | None
    num_views: Annotated[int, Field(ge=1, le=4096)]
    num_images: Count
    highest_label: Annotated[int, Field(ge=0, le=2**31)]
    shards: list[BakedShard]
    libraries: dict[str, ShortText]
    created: ShortText
    tool_version: ShortText
    tickets: Manifest
    classes: BakedFile | None = None

    @property
    def is_whole(self) -> bool:
        """Tells whether all patches of each view are there."""
        return self.patches == "all"

    @property
    def files(self) -> list[BakedFile]:
        """All files but baked.json."""
        return [*(file for shard in self.shards for file in shard.files), *filter(None, [self.classes])]

    @property
    def num_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(file.num_bytes for shard in self.shards for file in shard.files)

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON types, with what a reader of patches needs at the top, and its checksum."""
        document: dict[str, Any] = {**json.loads(json.dumps(dataclasses.asdict(self))), **_facts(self.tickets)}
        document["tickets"] = self.tickets.to_json()
        return {**document, "checksum": checksum_of(document)}


def _facts(tickets: Manifest) -> dict[str, Any]:
    publication = tickets.publication
    return {
        "ticket_digest": tickets.digest,
        "grid": list(tickets.grid),
        "patch_px": tickets.patch_px,
        "image_px": tickets.image_px,
        "num_channels": tickets.view.num_channels,
        "num_keep": tickets.num_keep,
        "mean": tickets.view.mean,
        "std": tickets.view.std,
        "data_license": None if publication is None else publication.data_license,
    }


_ADAPTER = TypeAdapter(BakedManifest)


def mosaic_size(num_patches: int) -> tuple[int, int]:
    """Rows and columns of a mosaic of so many patches: as nearly a square as holds them; the last places are empty."""
    columns = math.isqrt(num_patches - 1) + 1
    return -(-num_patches // columns), columns


def view_folder(view: int) -> str:
    """The folder of a view's shards."""
    return f"view-{view:03d}"


def is_baked(folder: Path) -> bool:
    """Tells whether a baked folder, sound or not, stands there."""
    return (folder / BAKED_FILE).is_file()


def read_baked(folder: Path) -> BakedManifest:
    """Reads and checks a folder's baked.json.

    Raises:
        BakedError: it is not there, or not valid.
    """
    path = folder / BAKED_FILE
    try:
        content = read_regular(path, MAX_DOCUMENT_BYTES)
    except FileNotFoundError:
        raise BakedError(_not_found(folder)) from None
    except OSError as error:
        raise BakedError(f"{path} cannot be read ({error}); bake it again") from None
    return parse_baked(content, str(path))


def parse_baked(content: bytes, path: str) -> BakedManifest:
    """Checks the content of a baked.json.

    Args:
        path: of the file, for messages.

    Raises:
        BakedError: it is not valid.
    """
    problem = too_large(content)
    if problem is not None:
        raise BakedError(f"{path} {problem}; bake it again")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BakedError(f"{path} cannot be read ({error}); bake it again") from None
    if not isinstance(document, dict) or not isinstance(document.get("tickets"), dict):
        raise BakedError(f"{path} is not that of a baked folder; bake it again")
    version = str(document.get("format_version"))
    if version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise BakedError(f"{path} is of format {version!r}, and this dataltt reads {FORMAT_VERSION}; bake it again")
    try:
        tickets = parse_manifest(document["tickets"], f"the entry tickets of {path}")
        if document.get("checksum") != checksum_of(document):
            raise ValueError("its checksum is another: it is damaged or was changed by hand")
        text = json.dumps({**document, "tickets": dataclasses.asdict(tickets)})
        found = _ADAPTER.validate_json(text, strict=True)
    except SchemaError as error:
        raise BakedError(f"{path} has no valid manifest of tickets ({error.problems[0]}); bake it again") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BakedError(f"{path}: {where}: {first['msg']}; bake it again") from None
    except ValueError as error:
        raise BakedError(f"{path} is not valid: {error}; bake it again") from None
    problem = _problem(found, document)
    if problem is not None:
        raise BakedError(f"{path} is not valid: {problem}; bake it again")
    return found


def _not_found(folder: Path) -> str:
    if (folder / "parts" / "plan.json").exists():
        return f"{folder} is not finished; run the same bake again to finish it"
    return f"{folder} is not a baked folder (it has no {BAKED_FILE}); make one with: dataltt bake --out {folder}"


def _problem(m: BakedManifest, document: dict[str, Any]) -> str | None:
    """Finds what in a manifest does not go together."""
    t = m.tickets
    paths = [Path(file.path) for file in m.files]
    checks = [
        (all(document.get(name) == value for name, value in _facts(t).items()), "its facts are not its tickets'"),
        (t.num_keep <= m.num_baked <= t.num_patches, "num_baked should lie between num_keep and all patches"),
        (m.num_baked == t.num_keep or m.patches != "kept", "num_baked should be num_keep"),
        (m.num_baked == t.num_patches or not m.is_whole, "num_baked should be all patches"),
        (m.num_views <= t.num_views, "it has more views than its tickets"),
        ((m.quality is None) == (m.encoding == "raw"), "quality belongs to jpeg alone"),
        (all(len(s.files) == m.num_views for s in m.shards), "a shard should have a file for each view"),
        (sum(s.num_samples for s in m.shards) == m.num_images, "num_images should be those of all shards"),
        (len(set(paths)) == len(paths), "a file is named twice"),
        (not any(p.is_absolute() or ".." in p.parts for p in paths), "a file lies outside the folder"),
    ]
    return next((said for holds, said in checks if not holds), None)
