"""Finding shards and reading samples out of them, in order, to the end, or with an error that names the shard."""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

import braceexpand
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
from ...artifacts_schema.local_notes import noted_shards

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
# Members that webdataset passes over.
METADATA_NAME = re.compile(r"__[^/]*__($|/)")
# What a store may name as the place of its shards without anybody having said so.
SAFE_SCHEMES = frozenset({"http", "https", "s3", "gs", "hf"})
_READ_ERRORS = (tarfile.TarError, OSError, EOFError, zlib.error)


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
        return list(braceexpand.braceexpand(spec))
    return [os.path.join(head, each) for each in braceexpand.braceexpand(tail)]


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


def listed_classes(shards: Sequence[Shard]) -> int | None:
    """Counts the classes that the classes.json beside local shards lists; None if there is none.

    Raises:
        OptionError: it lists nothing.
    """
    path = Path(shards[0].url).parent / "classes.json"
    if is_url(shards[0].url) or not path.exists():
        return None
    try:
        return len(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise OptionError(f"{path} does not list classes ({error}); mend it, or pass `num_classes`") from None


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
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
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
    seen: set[str] = set()
    for group in _iter_groups(shard):
        key = str(group["__key__"])
        if key in seen:
            raise DuplicateKeyError(key, shard.name, shard.name)
        seen.add(key)
        image = next((group[e] for e in IMAGE_EXTENSIONS if e in group), None)
        if image is None:
            found = ", ".join(k for k in group if not k.startswith("__"))
            raise SampleError(
                f"{shard.name}: sample {key!r} has no image (it has {found}; images are "
                f"{', '.join('.' + e for e in IMAGE_EXTENSIONS)}); repack the shard without it"
            )
        yield RawSample(shard=shard.name, key=key, image=image, label=_label(group, shard, key))


def _label(group: dict[str, Any], shard: Shard, key: str) -> int:
    if "cls" not in group:
        return -1
    try:
        label = int(group["cls"])
    except ValueError:
        label = -2
    if not -1 <= label < 2**31:
        raise SampleError(f"{shard.name}: the .cls of sample {key!r} is not a class index; repack the shard")
    return label


def _open(shard: Shard) -> IO[bytes]:
    """The shard's bytes: a file, or what fsspec (https:, s3:, gs:, hf:, …) or else webdataset (pipe:, …) opens."""
    url = shard.url
    if not is_url(url):
        return open(url, "rb")  # by no means gopen, for which a file called "pipe:…" is a command
    try:
        if is_openable(url) or url.split(":")[0] not in gopen_schemes:
            return open_stream(Location(place=url, access=shard.access))
        stream: IO[bytes] = wds.gopen(url)
    except (ValueError, ImportError) as error:
        raise ShardError(
            f"{url} cannot be opened ({error}); install what opens it, or pass it through a command (pipe:…)"
        ) from error
    return stream


def _iter_groups(shard: Shard) -> Iterator[dict[str, Any]]:
    """Samples as webdataset groups them: extension → bytes, and __key__."""
    try:
        with (
            _open(shard) as stream,
            tarfile.open(fileobj=stream, mode="r|*", tarinfo=_StrictTarInfo) as tar,
        ):
            yield from group_by_keys(_iter_files(tar, shard))
    except ValueError as error:
        if "duplicate file name" not in str(error):
            raise
        key, _ = base_plus_ext(str(error.args[0]).split(": duplicate file name")[0])
        raise DuplicateKeyError(key, shard.name, shard.name) from error
    except _READ_ERRORS as error:
        raise _unreadable(shard, error) from error


def _iter_files(tar: tarfile.TarFile, shard: Shard) -> Iterator[dict[str, Any]]:
    for member in tar:
        content = tar.extractfile(member) if member.isreg() and not METADATA_NAME.match(member.name) else None
        if content is not None:
            yield {"fname": member.name, "data": content.read(), "__url__": shard.url}
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep the header of every member


def _unreadable(shard: Shard, error: Exception) -> ShardError:
    if isinstance(error, FileNotFoundError) and is_url(shard.url):
        return ShardError(f"there is no shard {shard.url}; check the URL and the range")
    reason = str(error) or type(error).__name__
    return ShardError(f"{shard.url} cannot be read to its end ({reason}); copy or make it again")


def count_samples(shard: Shard, excluding: Set[str] = frozenset()) -> int:
    """Counts the samples of a shard: from tar headers alone where it is a local file, else by reading it.

    Args:
        excluding: keys that do not count.

    Raises:
        ShardError: the shard cannot be read to its end.
    """
    keys = (str(group["__key__"]) for group in _iter_groups(shard)) if is_url(shard.url) else header_keys(shard)
    return sum(key not in excluding for key in keys)


def header_keys(shard: Shard) -> Iterator[str]:
    """Yields the keys of a local shard in its own order, from tar headers alone.

    Raises:
        ShardError: the shard cannot be read to its end.
    """
    seen: set[str] = set()
    try:
        with tarfile.open(shard.url, "r:*", tarinfo=_StrictTarInfo) as tar:
            for member in tar:
                prefix, _ = base_plus_ext(member.name)
                if prefix is None or prefix in seen or not member.isreg() or METADATA_NAME.match(member.name):
                    continue
                seen.add(prefix)
                yield prefix
    except _READ_ERRORS as error:
        raise _unreadable(shard, error) from error
