"""Fixtures that several files ask for: a folder, a fixed time, a small store, servers. And one thread for all."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

from .disks import disk  # noqa: F401
from .far.fixtures import (  # noqa: F401
    _gs_server,
    _s3_server,
    certificate,
    gs_server,
    hub_server,
    no_credentials,
    s3_server,
)

if TYPE_CHECKING:
    from .helpers import SmallStore

# How long a test takes depends on what else the machine does, and is asserted nowhere.
# The same examples every time, so that a red test is red again; make fuzz looks for others.
settings.register_profile("dataltt", deadline=None, derandomize="DATALTT_FUZZ_EXAMPLES" not in os.environ)
settings.load_profile("dataltt")

# A shell lets jobs in the background ignore Ctrl-C, which some tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The models are tiny: more threads would wait for each other, and one gives the same rounding everywhere.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what tests download out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATALTT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Moves into an empty folder without dataltt.toml and without DATALTT_SHARDS; wide lines, no colours."""
    monkeypatch.delenv("DATALTT_SHARDS", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))


@pytest.fixture
def fixed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every store say that it was written at 2023-11-14T22:13:20+00:00."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """A centre-view store of 3 shards of 12 images, with ranks. Tests leave it as it is."""
    from .helpers import make_store  # takes seconds to import, and the schema's tests do not need it

    return make_store(tmp_path_factory.mktemp("small"))
