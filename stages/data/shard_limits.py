"""Limits of what a shard may make its reader hold in memory: of headers, members, samples and keys."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from webdataset.tariterators import base_plus_ext

from ...artifacts_schema import SampleError, ShardError
from ...artifacts_schema.strings import MAX_STRING_BYTES

if TYPE_CHECKING:
    from .shards import Shard

# No image is as large; a header can claim any size, and a compressed tar can fill it with zeros.
MAX_MEMBER_BYTES = 256 << 20
MAX_SAMPLE_BYTES = 512 << 20
MAX_SAMPLE_MEMBERS = 10_000
_MAX_EXTENSION_BYTES = 1 << 20  # of a header that holds a long name, or more about the one that follows
_EXTENSIONS = frozenset({b"x", b"g", b"X", b"L", b"K"})
_SHOWN = 200  # characters of a text that may be somebody else's

T = TypeVar("T", bound=tarfile.TarInfo)


def check_header(header: T) -> T:
    """A header of a tar file, if its size can be meant.

    Raises:
        tarfile.ReadError
    """
    most = _MAX_EXTENSION_BYTES if header.type in _EXTENSIONS else MAX_MEMBER_BYTES
    if not 0 <= header.size <= most:
        what = "a header" if header.type in _EXTENSIONS else f"member {shortened(header.name)!r}"
        raise tarfile.ReadError(f"{what} claims {header.size} bytes, and at most {most} are read")
    return header


def limited(files: Iterable[dict[str, Any]], shard: Shard) -> Iterator[dict[str, Any]]:
    """Members of a shard (`fname`, `data`), as long as those of one sample are not too large or too many.

    Raises:
        ShardError: they are.
    """
    prefix, num_bytes, num_members = None, 0, 0
    for file in files:
        own, _ = base_plus_ext(file["fname"])
        if own != prefix:
            prefix, num_bytes, num_members = own, 0, 0
        num_bytes += len(file["data"])
        num_members += 1
        if num_bytes > MAX_SAMPLE_BYTES or num_members > MAX_SAMPLE_MEMBERS:
            raise ShardError(
                f"{shard.url}: sample {shortened(str(own))!r} has more than {MAX_SAMPLE_BYTES} bytes or "
                f"{MAX_SAMPLE_MEMBERS} members, which no image has; pack the shard again without it"
            )
        yield file


def valid_key(key: str, shard: Shard) -> str:
    """A sample's key, if a ticket store can hold it.

    Raises:
        SampleError: it is too long, or no UTF-8.
    """
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        raise SampleError(
            f"{shard.name}: key {shortened(key)!r} is not UTF-8; rename it and pack the shard again"
        ) from None
    if length > MAX_STRING_BYTES:
        raise SampleError(
            f"{shard.name}: key {shortened(key)!r} has {length} bytes, and at most {MAX_STRING_BYTES} are stored; "
            "shorten it and pack the shard again"
        )
    return key


def shortened(text: str) -> str:
    """A text with its middle left out where it is long."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}…{text[-_SHOWN // 2 :]}"
