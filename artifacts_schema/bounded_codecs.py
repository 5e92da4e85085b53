"""Decoders that give exactly as many bytes as a chunk has, whatever the bytes that come claim of themselves.

Zarr's own codecs take the size from the compressed bytes, where 61 kB can claim 2 GB. A chunk's size is known before:
its shape by its dtype. These codecs are put in the place of an opened array's own; nothing global is changed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import zarr
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd
from zarr.abc.codec import Codec, CodecPipeline
from zarr.codecs import BloscCodec, GzipCodec, ShardingCodec, ZstdCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.codec_pipeline import BatchedCodecPipeline

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_BLOSC_HEADER = struct.Struct("<4BIII")  # version, its compressor's version, flags, type size; then sizes in bytes
_NO_CHUNK = np.iinfo(np.uint64).max  # offset and length, in a shard's index, of a chunk that is not there


def bounded(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """The same array, read by decoders that give no more bytes than a chunk has.

    Its codecs are of those that `codec_problems` lets pass.
    """
    metadata: Any = array.metadata
    limited = dataclasses.replace(metadata, codecs=tuple(map(_bounded_codec, metadata.codecs)))
    return zarr.Array(zarr.AsyncArray(metadata=limited, store_path=array.store_path))


def max_object_bytes(array: zarr.Array[Any]) -> int:
    """Bytes that one object of an array has at most: those of its entries, what compression may add, and an index."""
    shape = array.shards or array.chunks
    num_chunks = math.prod(n // m for n, m in zip(shape, array.chunks, strict=True))
    return math.prod(shape) * array.dtype.itemsize * 9 // 8 + 1024 * num_chunks + 1024


def _bounded_codec(codec: Any) -> Codec:
    if isinstance(codec, ShardingCodec):
        return _BoundedSharding(
            chunk_shape=codec.chunk_shape,
            codecs=tuple(map(_bounded_codec, codec.codecs)),
            index_codecs=codec.index_codecs,
            index_location=codec.index_location,
        )
    for kind, limited in ((ZstdCodec, _BoundedZstd), (BloscCodec, _BoundedBlosc), (GzipCodec, _BoundedGzip)):
        if isinstance(codec, kind):
            return limited.from_dict(codec.to_dict())
    assert isinstance(codec, Codec)
    return codec


def _num_bytes(spec: ArraySpec) -> int:
    """Bytes of a chunk once it is decoded."""
    return math.prod(spec.shape) * spec.dtype.to_native_dtype().itemsize


def _as_buffer(spec: ArraySpec, decoded: npt.NDArray[np.uint8]) -> Buffer:
    return spec.prototype.buffer.from_array_like(decoded)


def _streamed(encoded: npt.NDArray[np.uint8], num_bytes: int, codec: str) -> npt.NDArray[np.uint8]:
    """Decodes what does not tell its size: one byte more than it should have would be too many."""
    with pa.CompressedInputStream(pa.BufferReader(pa.py_buffer(np.ascontiguousarray(encoded))), codec) as stream:
        decoded = stream.read(num_bytes + 1)
    if len(decoded) != num_bytes:
        raise _wrong_size("more" if len(decoded) > num_bytes else str(len(decoded)), num_bytes)
    return np.frombuffer(decoded, dtype=np.uint8)


def _wrong_size(found: object, num_bytes: int) -> ValueError:
    return ValueError(f"a chunk of {num_bytes} bytes decodes to {found}")


class _BoundedZstd(ZstdCodec):
    """Zstandard, into a buffer of the chunk's size."""

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        encoded, num_bytes = chunk_bytes.as_numpy_array(), _num_bytes(chunk_spec)
        claimed = zstd_content_size(encoded[:18].tobytes())
        if claimed is None:
            return _as_buffer(chunk_spec, _streamed(encoded, num_bytes, "zstd"))
        if claimed != num_bytes:
            raise _wrong_size(claimed, num_bytes)
        decoded = np.empty(num_bytes, dtype=np.uint8)
        Zstd().decode(encoded, out=decoded)  # an error if there are more or fewer
        return _as_buffer(chunk_spec, decoded)

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)


def zstd_content_size(header: bytes) -> int | None:
    """Bytes that a Zstandard frame says it decodes to (RFC 8878, 3.1.1.1); None where it does not say.

    Args:
        header: the first 18 bytes of the frame, or all of a shorter one.
    """
    if header[:4] != _ZSTD_MAGIC or len(header) < 6:
        return None
    descriptor = header[4]
    is_single_segment = bool(descriptor & 0x20)
    width = (1 if is_single_segment else 0, 2, 4, 8)[descriptor >> 6]
    first = 5 + (not is_single_segment) + (0, 1, 2, 4)[descriptor & 3]
    if not width or len(header) < first + width:
        return None
    size = int.from_bytes(header[first : first + width], "little")
    return size + 256 if width == 2 else size


class _BoundedBlosc(BloscCodec):
    """Blosc, of a header that says the chunk's size."""

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        encoded, num_bytes = np.ascontiguousarray(chunk_bytes.as_numpy_array()), _num_bytes(chunk_spec)
        if len(encoded) < _BLOSC_HEADER.size:
            raise ValueError("a chunk is too short for Blosc")
        *_, decoded_bytes, block_bytes, encoded_bytes = _BLOSC_HEADER.unpack(encoded[: _BLOSC_HEADER.size].tobytes())
        if decoded_bytes != num_bytes:
            raise _wrong_size(decoded_bytes, num_bytes)
        if encoded_bytes != len(encoded) or not 0 < block_bytes <= num_bytes:
            raise ValueError("a chunk's Blosc header does not fit it")
        decoded = np.empty(num_bytes, dtype=np.uint8)
        Blosc().decode(encoded, out=decoded)
        return _as_buffer(chunk_spec, decoded)

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)


class _BoundedGzip(GzipCodec):
    """Gzip, which does not tell its size in front, as a stream with a limit."""

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        return _as_buffer(chunk_spec, _streamed(chunk_bytes.as_numpy_array(), _num_bytes(chunk_spec), "gzip"))

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)


class _WholePipeline(BatchedCodecPipeline):
    """Codecs of the chunks of an object: one that is not there is damage, where Zarr gives its fill value."""

    async def decode_batch(
        self, chunk_bytes_and_specs: Iterable[tuple[Buffer | None, ArraySpec]]
    ) -> Iterable[NDBuffer | None]:
        pairs = list(chunk_bytes_and_specs)
        if any(encoded is None for encoded, _ in pairs):
            raise ValueError("a chunk is missing from its object")
        return await super().decode_batch(pairs)


class _BoundedSharding(ShardingCodec):
    """Sharding whose index leads nowhere but into its object, and to no more bytes than a chunk can have."""

    @property
    def codec_pipeline(self) -> CodecPipeline:
        return _WholePipeline.from_codecs(self.codecs)

    async def _decode_shard_index(self, index_bytes: Buffer, chunks_per_shard: tuple[int, ...]) -> Any:
        index = await super()._decode_shard_index(index_bytes, chunks_per_shard)
        places = index.offsets_and_lengths.reshape(-1, 2)
        there = places[(places != _NO_CHUNK).any(axis=1)]
        if (there >= 1 << 40).any():  # a sum of two of these is no overflow, and reading past the end is an error
            raise ValueError("the index of an object leads out of it")
        return index
