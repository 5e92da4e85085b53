"""Shards of a baked folder: written member by member, and read by offset, without copying what is not wanted.

docs and artifacts_schema/baked.py say what the members are. Letters: P patches of the grid, K of a ticket, M of a baked
sample, p patch side in pixels, C channels.
"""

from __future__ import annotations

import hashlib
import mmap
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt

from ...artifacts_schema import BakedError
from ...artifacts_schema.baked import BakedEncoding, BakedManifest
from ...artifacts_schema.files import open_regular
from ...artifacts_schema.tickets import ranks_dtype
from .patch_pixels import Pixels, decode_mosaic

_BLOCK = 512
_INDEX = np.dtype("<u2")
_FILE, _LONG_NAME = frozenset(b"\0000"), ord("L")


class BakedTarWriter:
    """Writer of a tar that counts and hashes what it writes: the same members give the same bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._sha256 = file, hashlib.sha256()
        self.num_bytes = 0

    def add(self, key: str, members: Sequence[tuple[str, bytes]]) -> None:
        """Adds a sample: extensions and contents of its members."""
        for extension, content in members:
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size = len(content)
            self._write(info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % _BLOCK))

    def finish(self) -> str:
        """Writes the end of the archive; returns the SHA-256 (hex) of all bytes."""
        self._write(bytes(2 * _BLOCK))
        self._file.flush()
        return self._sha256.hexdigest()

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._sha256.update(content)
        self.num_bytes += len(content)


@dataclass(frozen=True, slots=True, kw_only=True)
class BakedFormat:
    """Shape of the samples of a folder.

    Attributes:
        is_whole: all patches are there, so that positions are not said.
        has_ranks: each sample has its patches' ranks.
    """

    num_patches: int
    num_baked: int
    num_keep: int
    patch_px: int
    channels: int
    encoding: BakedEncoding
    is_whole: bool
    has_ranks: bool

    @classmethod
    def of(cls, manifest: BakedManifest) -> BakedFormat:
        """The format that a folder's manifest says."""
        t = manifest.tickets
        return cls(
            num_patches=t.num_patches,
            num_baked=manifest.num_baked,
            num_keep=t.num_keep,
            patch_px=t.patch_px,
            channels=t.view.num_channels,
            encoding=manifest.encoding,
            is_whole=manifest.is_whole,
            has_ranks=t.has_ranks,
        )

    @property
    def sizes(self) -> dict[str, int | None]:
        """Bytes of each member that a sample has; None where they differ."""
        found: dict[str, int | None] = {"cls": None}
        if self.encoding == "raw":
            found["patches"] = self.num_baked * self.patch_px**2 * self.channels
        else:
            found["jpg"] = None
        if not self.is_whole:
            found["idx"] = self.num_baked * _INDEX.itemsize
        if self.has_ranks:
            found["ranks"] = self.num_baked * ranks_dtype(self.num_patches).itemsize
        elif self.is_whole:
            found["kept"] = self.num_keep * _INDEX.itemsize
        return found

    def largest_sample_bytes(self) -> int:
        """Bytes in a tar of a sample with raw pixels: an upper bound, but for the longest names."""
        pixels = self.num_baked * self.patch_px**2 * self.channels
        return sum(_BLOCK + -(-(pixels if n is None else n) // _BLOCK) * _BLOCK for n in self.sizes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class BakedSample:
    """A sample as it was baked: `patches` uint8 [M, p, p, C], `positions` int64 [M], ascending, `ranks` [M].

    `kept`: bool [P], the ticket.
    """

    key: str
    label: int
    patches: Pixels
    positions: npt.NDArray[np.int64]
    kept: npt.NDArray[np.bool_]
    ranks: npt.NDArray[np.int64] | None


class _Extent(NamedTuple):
    start: int
    num_bytes: int


class BakedTar:
    """A shard, mapped into memory; its headers are read when it is opened.

    Raises:
        BakedError: it is not there, or not what its folder says.
    """

    def __init__(self, path: Path, form: BakedFormat, num_samples: int) -> None:
        self._path, self._form = path, form
        try:
            with open_regular(path) as file:
                # A private mapping, since torch takes no memory that it must not write; nobody does.
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise BakedError(f"{path} cannot be read ({error}); bake it again, or copy it again") from None
        self._samples = _grouped(self._members())
        if len(self._samples) != num_samples:
            raise self._wrong(f"holds {len(self._samples)} samples where {num_samples} were baked")
        for key, members in self._samples:
            self._check(key, members)

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def keys(self) -> list[str]:
        """Keys of its samples, in order."""
        return [key for key, _ in self._samples]

    def read(self, number: int) -> BakedSample:
        """Sample `number`. Raw pixels are those of the mapped file, and not to be written.

        Raises:
            BakedError: a member is damaged.
        """
        form = self._form
        key, members = self._samples[number]
        positions = self._indices(key, members["idx"]) if "idx" in members else np.arange(form.num_patches)
        ranks, kept = None, np.zeros(form.num_patches, np.bool_)
        if "ranks" in members:
            kind = ranks_dtype(form.num_patches).newbyteorder("<")
            ranks = np.frombuffer(self._content(members["ranks"]), kind).astype(np.int64)
            if ranks.max() >= form.num_patches:
                raise self._wrong(f"member {key}.ranks has ranks beyond the grid")
            kept[positions[ranks < form.num_keep]] = True
        else:
            kept[self._indices(key, members["kept"]) if "kept" in members else positions] = True
        return BakedSample(
            key=key,
            label=self._label(key, members["cls"]),
            patches=self._patches(key, members),
            positions=positions,
            kept=kept,
            ranks=ranks,
        )

    def _patches(self, key: str, members: dict[str, _Extent]) -> Pixels:
        form = self._form
        if form.encoding == "raw":
            start, num_bytes = members["patches"]
            pixels = np.frombuffer(self._bytes, np.uint8, num_bytes, start)
            return pixels.reshape(form.num_baked, form.patch_px, form.patch_px, form.channels)
        try:
            return decode_mosaic(self._content(members["jpg"]), form.num_baked, form.patch_px, form.channels)
        except ValueError as error:
            raise self._wrong(f"member {key}.jpg {error}") from None

    def _label(self, key: str, extent: _Extent) -> int:
        content = self._content(extent)
        if not content.isdigit() or len(content) > 10:
            raise self._wrong(f"member {key}.cls is not a class index")
        return int(content)

    def _indices(self, key: str, extent: _Extent) -> npt.NDArray[np.int64]:
        found = np.frombuffer(self._content(extent), _INDEX).astype(np.int64)
        if found[-1] >= self._form.num_patches or (np.diff(found) <= 0).any():
            raise self._wrong(f"the positions of sample {key!r} are not those of patches, ascending")
        return found

    def _content(self, extent: _Extent) -> bytes:
        return self._bytes[extent.start : extent.start + extent.num_bytes]

    def _check(self, key: str, members: dict[str, _Extent]) -> None:
        for extension, num_bytes in self._form.sizes.items():
            if extension not in members:
                raise self._wrong(f"sample {key!r} has no .{extension}")
            if num_bytes is not None and members[extension].num_bytes != num_bytes:
                found = members[extension].num_bytes
                raise self._wrong(f"member {key}.{extension} has {found} bytes where {num_bytes} were baked")

    def _members(self) -> Iterator[tuple[str, _Extent]]:
        """Names of the files, and where their contents lie."""
        place, name, end = 0, None, len(self._bytes)
        while place + _BLOCK <= end:
            header = self._bytes[place : place + _BLOCK]
            if header[0] == 0:
                return
            start = place + _BLOCK
            try:
                num_bytes = int(header[124:136].rstrip(b"\0 "), 8)
                own = header[:100].rstrip(b"\0").decode()
            except ValueError:
                raise self._wrong(f"has no tar header at byte {place}") from None
            if header[257:262] != b"ustar" or start + num_bytes > end:
                raise self._wrong(f"is cut off, or has no tar header at byte {place}")
            if header[156] == _LONG_NAME:
                name = self._bytes[start : start + num_bytes].rstrip(b"\0").decode(errors="replace")
            elif header[156] in _FILE:
                yield own if name is None else name, _Extent(start, num_bytes)
                name = None
            place = start + -(-num_bytes // _BLOCK) * _BLOCK
        raise self._wrong("is cut off")

    def _wrong(self, what: str) -> BakedError:
        return BakedError(f"{self._path}: {what}; it is damaged, so copy it again, or bake it again")


def _grouped(members: Iterator[tuple[str, _Extent]]) -> list[tuple[str, dict[str, _Extent]]]:
    """Members that stand together and have one key, as webdataset groups them."""
    samples: list[tuple[str, dict[str, _Extent]]] = []
    for name, extent in members:
        folder, slash, file = name.rpartition("/")
        stem, _, extension = file.partition(".")
        key = f"{folder}{slash}{stem}"
        if not samples or samples[-1][0] != key:
            samples.append((key, {}))
        samples[-1][1][extension] = extent
    return samples


def encoded_positions(positions: npt.NDArray[np.integer]) -> bytes:
    """Positions on the grid as the content of a member."""
    return positions.astype(_INDEX).tobytes()
