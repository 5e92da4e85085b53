"""Guesses of how many samples shards hold, from their sizes and the first samples, to know what will be written."""

from __future__ import annotations

import itertools
import os
import tarfile
from collections.abc import Sequence

from webdataset.tariterators import base_plus_ext

from .shards import METADATA_NAME, Shard, is_url

_MEMBERS = 2048  # that are looked at


def guessed_samples(shards: Sequence[Shard]) -> int | None:
    """A guess of how many samples local shards hold; None of URLs, and of compressed or damaged shards."""
    if not shards or any(is_url(shard.url) for shard in shards):
        return None
    keys: set[str] = set()
    try:
        num_bytes = sum(os.stat(shard.url).st_size for shard in shards)
        with tarfile.open(shards[0].url, "r:") as tar:
            for member in itertools.islice(tar, _MEMBERS):
                key, _ = base_plus_ext(member.name)
                if key is not None and member.isreg() and not METADATA_NAME.match(member.name):
                    keys.add(key)
            looked_at = tar.offset
    except (tarfile.TarError, OSError):  # reading it will say what is wrong
        return None
    return round(num_bytes * len(keys) / looked_at) if keys else None
