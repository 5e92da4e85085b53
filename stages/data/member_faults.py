"""Members of samples in shards: which are images, and the faults that a reader would misname.

A sample whose members lie apart looks like a doubled key, and a dot in a file's name like an unknown extension.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, MutableMapping
from typing import Protocol

from ...artifacts_schema import DuplicateKeyError, SampleError, ShardError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")


class Place(Protocol):
    """A shard, as far as an error names it."""

    @property
    def url(self) -> str: ...

    @property
    def name(self) -> str: ...


def check_group(shard: Place, key: str, found: tuple[str, ...], seen: MutableMapping[str, tuple[str, ...]]) -> None:
    """Checks the extensions of a sample whose members stood together.

    Args:
        seen: extensions of the samples of this shard before it, by key; this one's are added.

    Raises:
        DuplicateKeyError, ShardError: the key came before.
        SampleError: it has the label of another sample.
    """
    if key in seen:
        raise met_again(shard, key, seen[key], found)
    seen[key] = found
    for name in found:
        if name.endswith(".cls"):
            raise dots(shard, key, name)


def met_again(shard: Place, key: str, before: Iterable[str], now: Iterable[str]) -> ShardError | DuplicateKeyError:
    """The error where a key comes again after other samples: with the extensions that it has there and here.

    A sample in pieces has each extension once. It is no doubled key, and removing a piece would remove a label.
    """
    first, second = sorted(before), sorted(now)
    if set(first) & set(second):
        return DuplicateKeyError(key, shard.name, shard.name)
    return ShardError(
        f"{shard.name}: the members of sample {key!r} do not stand together (.{first[0]}, and after other samples "
        f".{second[0]}); make the tar anew with tar --sort=name, or by: {_regroup(shard)}"
    )


def no_image(shard: Place, key: str, found: Iterable[str], elsewhere: Iterable[str] = ()) -> SampleError | ShardError:
    """The error where a sample has no image among the extensions that were found.

    Args:
        elsewhere: extensions that it has in other places of the shard.
    """
    names, others = sorted(found), sorted(set(elsewhere) - set(found))
    if set(IMAGE_EXTENSIONS).intersection(others):
        error = met_again(shard, key, names, others)
        assert isinstance(error, ShardError)
        return error
    dotted = next((name for name in names if "." in name and name.rsplit(".", 1)[1] in IMAGE_EXTENSIONS), None)
    if dotted is not None:
        return dots(shard, key, dotted)
    return SampleError(
        f"{shard.name}: sample {key!r} has no image (it has {', '.join(names)}; images are "
        f"{', '.join('.' + e for e in IMAGE_EXTENSIONS)}); repack the shard without it"
    )


def dots(shard: Place, key: str, extension: str) -> SampleError:
    """The error where a file's name has dots: its key ends at the first one."""
    return SampleError(
        f"{shard.name}: a key ends at the first dot of a file's name, so {f'{key}.{extension}'!r} is read as "
        f".{extension} of sample {key!r}; rename the files, or make the tar anew by: "
        f"{_regroup(shard, by_last_dot=True)}"
    )


def _regroup(shard: Place, *, by_last_dot: bool = False) -> str:
    if by_last_dot:
        return f"dataltt pack --from-shards --key-from last-dot {shlex.quote(shard.url)} OUT"
    return f"dataltt pack --from-shards {shlex.quote(shard.url)} OUT"
