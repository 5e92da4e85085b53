"""Finding shards and reading samples out of them, in order, to the end, or with an error that names the shard."""

from __future__ import annotations

import glob
import lzma
import os
import re
import sys
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

import webdataset as wds
from webdataset.gopen import gopen_schemes
from webdataset.tariterators import base_plus_ext, group_by_keys

from ...artifacts_schema import (
    Access,
    DuplicateKeyError,
    Location,
    Manifest,
    OptionError,
    SampleError,
    ShardError,
)
from ...artifacts_schema.access.stream import is_openable, open_stream
from ...artifacts_schema.braces import TooManyNamesError, expand_braces
from ...artifacts_schema.errors import one_line
from ...artifacts_schema.files import open_regular
from ...artifacts_schema.local_notes import noted_shards
from .member_faults import IMAGE_EXTENSIONS, check_group, no_image
from .shard_limits import check_header, limited, shortened, valid_key

# Members that webdataset passes over.
METADATA_NAME = re.compile(r"__[^/]*__($|/)")
# What a store may name as the place of its shards without anybody having said so.
SAFE_SCHEMES = frozenset({"http", "https", "s3", "gs", "hf"})
# What reading raises; of tarfile on bytes that it did not expect, nearly anything.
_READ_ERRORS = (
    *(tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError),
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A shard: where it is, the name that the store knows it by, and how it is reached if that is a URL."""

    url: str
    name: str
    access: Access = Access()


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSample:
    """Sample as it stands in its shard; nothing is decoded. `label` is -1 where there is no .cls file."""

    shard: str
    key: str
    image: bytes
    label: int


def given_shards(spec: str | None) -> str:
    """The spec, if there is one.

    Raises:
        OptionError: there is none.
    """
    if spec:
        return spec
    raise OptionError(
        "which shards? give `shards='imagenet/train-{000000..001023}.tar'` (braces, a glob, or a URL); on the command "
        'line, $DATALTT_SHARDS or [data] shards = "…" in dataltt.toml will do'
    )


def is_url(spec: str) -> bool:
    """Tells whether this is opened by its scheme (https:, s3:, pipe:, hf:, …) rather than as a local file."""
    return ":" in spec.split("/")[0] and not os.path.exists(spec)


def absolute_spec(spec: str) -> str:
    """The spec as another working directory would need it: local ones made absolute, URLs as they are.

    The working directory becomes a part of a pattern, so what is special to patterns in its name is escaped.
    """
    if is_url(spec):
        return spec
    if os.path.isabs(spec) or os.path.exists(spec):
        return os.path.abspath(spec)
    here = re.sub(r"[\\{}]", r"\\\g<0>", glob.escape(os.getcwd()))
    return os.path.normpath(os.path.join(here, spec))


def resolve_shards(spec: str, access: Access | None = None) -> list[Shard]:
    """The shards of a brace expression, glob, or URL, in sorted order for globs and as written else.

    A path that exists is that path, whatever braces, brackets or colons are in it; so is a folder that does.

    Args:
        access: how URLs are reached.

    Raises:
        ShardError: nothing matches, or a local file of a brace expression is not there.
    """
    urls: list[str] = []
    try:
        patterns = _expanded(spec)
    except TooManyNamesError as error:
        raise ShardError(f"`shards={shortened(spec)!r}` {error}; give a range of the shards that there are") from None
    except ValueError as error:  # unbalanced braces
        raise ShardError(f"`shards={spec!r}` has braces that do not match; write t-{{000000..000009}}.tar") from error
    for pattern in patterns:
        if is_url(pattern):
            if "*" in pattern and not pattern.startswith("pipe:"):
                raise ShardError(
                    f"`shards={spec!r}` is a URL, of which nothing is listed; write t-{{000000..000009}}.tar"
                )
            urls.append(pattern)
        elif os.path.isfile(pattern):
            urls.append(pattern)
        elif glob.has_magic(pattern):
            head, tail = os.path.split(pattern)
            literal = os.path.join(glob.escape(head), tail) if os.path.isdir(head) else pattern
            urls.extend(sorted(glob.glob(literal, recursive=True)))
        elif os.path.isdir(pattern):
            raise ShardError(f"`shards={spec!r}` is a folder; give its shards, e.g. '{pattern}/*.tar'")
        else:
            raise ShardError(f"there is no shard {pattern} (from `shards={spec!r}`); check the path and the range")
    if not urls:
        raise ShardError(f"no shard matches `shards={spec!r}`; check the path, and quote the pattern")
    if len(set(urls)) != len(urls):
        raise ShardError(f"`shards={spec!r}` names a shard twice")
    names = _shard_names(urls)
    return [Shard(url=u, name=n, access=access or Access()) for u, n in zip(urls, names, strict=True)]


def _expanded(spec: str) -> list[str]:
    """Expands braces, but for those in the name of something that is there."""
    if os.path.isfile(spec):
        return [spec]
    head, tail = os.path.split(spec)
    if not os.path.isdir(head):
        return expand_braces(spec)
    return [os.path.join(head, each) for each in expand_braces(tail)]


def stored_shards(store: str | Location, manifest: Manifest, given: str | None = None) -> list[Shard]:
    """The shards given, else those that a store was made from; URLs are reached as the store is.

    Raises:
        ShardError: they are not there.
        OptionError: the store does not say where they are, or names something that only its user may open.
    """
    location = Location.of(store)
    if given is not None:
        return resolve_shards(given, location.access)
    source = noted_shards(str(store), manifest)
    if source is None:
        raise OptionError(f"{store} does not say where its images lie, since it was fetched; pass `shards`")
    try:
        shards = resolve_shards(source, location.access)
    except ShardError as error:
        raise ShardError(f"the shards that {store} names are not here ({error}); pass `shards`") from error
    # A store is somebody else's; webdataset would run what stands behind pipe: as a command.
    if any(is_url(s.url) and s.url.split(":")[0] not in SAFE_SCHEMES for s in shards):
        raise OptionError(f"{store} names its shards as {source!r}; pass `shards` to say that you mean them")
    return shards


def _shard_names(urls: Sequence[str]) -> list[str]:
    """File names if they are distinct, else as many of the last path components as make them so."""
    parts = [PurePosixPath(u.split("?")[0] if is_url(u) else u).parts for u in urls]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return list(urls)


class _StrictTarInfo(tarfile.TarInfo):
    """A header that cannot be read is an error, where tarfile would take it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Self:
        return check_header(super().frombuf(buf, encoding, errors))  # before tarfile reads what extends it

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return check_header(super().fromtarfile(tar))
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # a block of zeros: the true end
            raise
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            raise tarfile.ReadError("no end-of-archive block") from None
        except tarfile.HeaderError as error:  # truncated or invalid
            raise tarfile.ReadError(str(error)) from None


def iter_samples(shard: Shard) -> Iterator[RawSample]:
    """Yields all samples of a shard in its own order.

    Raises:
        ShardError: the shard cannot be opened, is not a tar, or is cut off.
        SampleError: a sample without an image, or with a .cls that is not a number.
        DuplicateKeyError: a key occurs twice in the shard.
    """
    seen: dict[str, tuple[str, ...]] = {}
    for group in _iter_groups(shard):
        key = checked_key(group, shard, seen)
        image = next(group[e] for e in IMAGE_EXTENSIONS if e in group)
        yield RawSample(shard=shard.name, key=key, image=image, label=class_number(group.get("cls"), shard, key))


def checked_key(group: dict[str, Any], shard: Shard, seen: dict[str, tuple[str, ...]]) -> str:
    """The key of a group of members, checked to be one whole sample with an image.

    Args:
        seen: extensions of the samples of this shard before it, by key; this one's are added.

    Raises:
        DuplicateKeyError, ShardError, SampleError: it is not.
    """
    key = valid_key(str(group["__key__"]), shard)
    found = tuple(sys.intern(name) for name in group if not name.startswith("__"))
    check_group(shard, key, found, seen)
    if not any(extension in group for extension in IMAGE_EXTENSIONS):
        raise no_image(shard, key, found, _extensions_of(shard, key))
    return key


def class_number(content: bytes | None, shard: Shard, key: str) -> int:
    """The number in a .cls file, -1 where there is none.

    Raises:
        SampleError: it holds anything else.
    """
    if content is None:
        return -1
    try:
        label = int(content)
    except ValueError:
        label = -2
    if not -1 <= label < 2**31:
        raise SampleError(f"{shard.name}: the .cls of sample {key!r} is not a class index; repack the shard")
    return label


def _open(shard: Shard) -> IO[bytes]:
    """The shard's bytes: a file, or what fsspec (https:, s3:, gs:, hf:, …) or else webdataset (pipe:, …) opens."""
    url = shard.url
    if not is_url(url):
        return open_regular(Path(url))  # by no means gopen, for which a file called "pipe:…" is a command
    try:
        if location := location_of(shard):
            return open_stream(location)
        stream: IO[bytes] = wds.gopen(url)
    except (ValueError, ImportError) as error:
        raise ShardError(
            f"{url} cannot be opened ({one_line(error)}); install what opens it, or pass it through a command (pipe:…)"
        ) from error
    return stream


def location_of(shard: Shard, beside: str | None = None) -> Location | None:
    """The location of a remote shard, or of the file of that name beside it; None if it is not a plain URL's (pipe:…).

    What follows a `?` belongs to the shard alone.
    """
    url = shard.url
    if not is_openable(url) and url.split(":")[0] in gopen_schemes:
        return None
    place = url if beside is None else f"{url.split('?')[0].rpartition('/')[0]}/{beside}"
    return Location(place=place, access=shard.access)


def _iter_groups(shard: Shard) -> Iterator[dict[str, Any]]:
    """Samples as webdataset groups them: extension → bytes, and __key__."""
    try:
        with (
            _open(shard) as stream,
            tarfile.open(fileobj=stream, mode="r|*", tarinfo=_StrictTarInfo) as tar,
        ):
            yield from grouped(limited(_iter_files(tar, shard), shard), shard)
    except _READ_ERRORS as error:
        raise _unreadable(shard, error) from error


def grouped(files: Iterator[dict[str, Any]], shard: Shard) -> Iterator[dict[str, Any]]:
    """Groups members (`fname`, `data`, `__url__`) that stand together, as webdataset does.

    Raises:
        DuplicateKeyError: two of a group have one extension.
    """
    try:
        yield from group_by_keys(files)
    except ValueError as error:
        if "duplicate file name" not in str(error):
            raise
        key, _ = base_plus_ext(str(error.args[0]).split(": duplicate file name")[0])
        raise DuplicateKeyError(key, shard.name, shard.name) from error


def _iter_files(tar: tarfile.TarFile, shard: Shard) -> Iterator[dict[str, Any]]:
    for member in tar:
        content = tar.extractfile(member) if is_member(member) else None
        if content is not None:
            yield {"fname": member.name, "data": content.read(), "__url__": shard.url}
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep the header of every member


def _unreadable(shard: Shard, error: Exception) -> ShardError:
    if isinstance(error, FileNotFoundError) and is_url(shard.url):
        return ShardError(f"there is no shard {shard.url}; check the URL and the range")
    return ShardError(f"{shard.url} cannot be read to its end ({one_line(error)}); copy or make it again")


def is_member(member: tarfile.TarInfo) -> bool:
    """Tells whether it is a file, and none of those that webdataset passes over."""
    return member.isreg() and not METADATA_NAME.match(member.name)


def _extensions_of(shard: Shard, key: str) -> set[str]:
    """Extensions that a key has anywhere in a shard, if that is a local file."""
    if is_url(shard.url):
        return set()
    with opened_tar(shard) as tar:
        named = (base_plus_ext(member.name) for member in tar if is_member(member))
        return {extension.lower() for prefix, extension in named if prefix == key}


@contextmanager
def opened_tar(shard: Shard) -> Iterator[tarfile.TarFile]:
    """A local shard, open for reading its headers, and members in any order.

    Raises:
        ShardError: it cannot be read to its end.
    """
    try:
        with open_regular(Path(shard.url)) as file, tarfile.open(fileobj=file, tarinfo=_StrictTarInfo) as tar:
            yield tar
    except _READ_ERRORS as error:
        raise _unreadable(shard, error) from error
