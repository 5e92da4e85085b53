"""A store's objects as Zarr reads them."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import IO

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from ..layout import MAX_OBJECT_BYTES, ROOT_FILE
from .objects import Objects

_MAX_METADATA_BYTES = 1 << 20


class ObjectStore(Store):
    """Read-only Zarr store over objects.

    A chunk that is not there, or is empty, is an error, where Zarr would read it as fill values; so is metadata that is
    not what the manifest says, and an object that is larger than its array's chunks can be.

    Attributes:
        limits: bytes that an object has at most, by its array's path.
    """

    def __init__(self, objects: Objects, digests: Mapping[str, str], root: bytes) -> None:
        super().__init__(read_only=True)
        self._objects, self._digests, self._root = objects, digests, root
        self.limits: dict[str, int] = {}

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The bytes of an object, or some of them."""
        found = await asyncio.to_thread(self._read, key, byte_range)
        if "/c/" in key and not found:
            raise FileNotFoundError(f"{key} is missing or empty")
        return None if found is None else prototype.buffer.from_bytes(found)

    def _read(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        if key == ROOT_FILE:
            return self._root
        try:
            with self._objects.open(key) as file:
                if key.endswith(f"/{ROOT_FILE}"):
                    return self._metadata(key, _up_to(file, _MAX_METADATA_BYTES, key))
                limit = self.limits.get(key.partition("/c/")[0], MAX_OBJECT_BYTES)
                if isinstance(byte_range, RangeByteRequest):
                    file.seek(byte_range.start)
                    return file.read(min(max(0, byte_range.end - byte_range.start), limit))
                if isinstance(byte_range, OffsetByteRequest):
                    file.seek(byte_range.offset)
                elif isinstance(byte_range, SuffixByteRequest):
                    file.seek(max(0, file.seek(0, io.SEEK_END) - byte_range.suffix))
                return _up_to(file, limit, key)
        except FileNotFoundError:
            return None

    def _metadata(self, key: str, content: bytes) -> bytes:
        if key in self._digests and hashlib.sha256(content).hexdigest() != self._digests[key]:
            raise ValueError(f"{key} has another SHA-256 than the manifest says")
        return content

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """The bytes of some objects."""
        return await asyncio.gather(*(self.get(key, prototype, byte_range) for key, byte_range in key_ranges))

    async def exists(self, key: str) -> bool:
        """Tells whether an object is there."""
        return key == ROOT_FILE or await asyncio.to_thread(self._objects.size, key) is not None

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = None  # type: ignore[assignment]

    @property
    def supports_writes(self) -> bool:
        """False: it is read alone."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """False: it is read alone."""
        return False

    @property
    def supports_listing(self) -> bool:
        """False: only what the manifest names is asked for."""
        return False

    async def set(self, key: str, value: Buffer) -> None:
        """Refuses."""
        raise PermissionError("a ticket store is opened for reading")

    async def delete(self, key: str) -> None:
        """Refuses."""
        raise PermissionError("a ticket store is opened for reading")

    def list(self) -> AsyncIterator[str]:
        """Refuses."""
        raise NotImplementedError("a ticket store is not listed")

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Refuses."""
        raise NotImplementedError("a ticket store is not listed")

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Refuses."""
        raise NotImplementedError("a ticket store is not listed")


def _up_to(file: IO[bytes], limit: int, key: str) -> bytes:
    """The rest of a file, which is not more than `limit` bytes."""
    content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{key} has more than {limit} bytes")
    return content
