"""A whole store of synthetic data, and a copy of it to damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..schema_helpers import Made, copy_store, make_store


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Eleven rows of three shards, two views, with ranks. Tests leave it as it is."""
    return make_store(tmp_path_factory.mktemp("whole"), num_views=2)


@pytest.fixture
def store(made: Made, tmp_path: Path) -> Path:
    """A copy to damage."""
    return copy_store(made, tmp_path)
