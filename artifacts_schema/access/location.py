"""Location of a store: what a text names, and how what lies far away is reached and kept."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

CACHE_VARIABLE = "DATALTT_CACHE"
DEFAULT_CACHE_GB = 50.0
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Ways to remote places.

    Attributes:
        storage_options: (key, value) pairs for the file system of the URL's scheme: endpoint_url, anon, profile, token.
        cache_dir: folder where downloaded objects are kept. Default: $DATALTT_CACHE, else dataltt in the user's caches.
        cache_gb: gigabytes that it may take; what was not used for longest goes first.
    """

    storage_options: tuple[tuple[str, str], ...] = ()
    cache_dir: Path | None = None
    cache_gb: float = DEFAULT_CACHE_GB

    @property
    def cache_bytes(self) -> int:
        """Bytes that the cache may take."""
        return int(self.cache_gb * 1e9)

    @property
    def cache_folder(self) -> Path:
        """The cache's folder, given or not."""
        if self.cache_dir is not None:
            return self.cache_dir
        if os.environ.get(CACHE_VARIABLE):
            return Path(os.environ[CACHE_VARIABLE])
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dataltt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A store's place, as it was given, and how it is reached.

    Loader workers are given the location that their parent has opened, so that what they find there must be the same.

    Attributes:
        place: as it was given.
        root_sha256: SHA-256 (hex) of the root document that must be found behind a URL.
        ticket_digest: that must be found there.
    """

    place: str
    access: Access = Access()
    root_sha256: str | None = None
    ticket_digest: str | None = None

    @classmethod
    def of(cls, place: str | Path | Location, access: Access | None = None) -> Location:
        """The location that a text or path names; one that is given stays as it is."""
        if isinstance(place, Location):
            return place if access is None else replace(place, access=access)
        return cls(place=str(place), access=access or Access())

    @property
    def is_remote(self) -> bool:
        """Tells whether it is behind a URL."""
        return is_remote(self.place)

    @property
    def is_zip(self) -> bool:
        """Tells whether it is a zip file."""
        return not self.is_remote and Path(self.place).is_file()

    def __str__(self) -> str:
        return self.place


def is_remote(place: str) -> bool:
    """Tells whether a text is a URL. A local path that exists is none, whatever it looks like."""
    return _SCHEME.match(place) is not None and not Path(place).exists()


def storage_options(pairs: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """Storage options as `Access` has them."""
    return tuple((key, str(value)) for key, value in pairs.items())
