"""A store behind a web server, a cache of its own for each test, and short waits between tries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dataltt.artifacts_schema.access import trying
from dataltt.artifacts_schema.access.location import Access

from ...far.http_server import FileServer
from ...schema_helpers import Made


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits milliseconds, where a second would be waited, before something is tried again."""
    monkeypatch.setattr(trying, "_FIRST_WAIT_S", 0.002)


@pytest.fixture
def access(tmp_path: Path) -> Access:
    """Access with an empty cache."""
    return Access(cache_dir=tmp_path / "cache")


@pytest.fixture
def web(made: Made, no_credentials: None) -> Iterator[FileServer]:
    """A web server of the store `made`, at `/store.zarr`."""
    with FileServer(made.path.parent) as server:
        yield server


@pytest.fixture
def web_of_copy(store: Path, no_credentials: None) -> Iterator[FileServer]:
    """A web server of a copy to damage, `store`, at `/store.zarr`."""
    with FileServer(store.parent) as server:
        yield server
