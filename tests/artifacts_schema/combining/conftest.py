"""A whole store, and stores made of some of its rows by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataltt.artifacts_schema.writing.commit import commit
from dataltt.artifacts_schema.writing.parts import Part

from ...schema_helpers import Made, make_store, write_parts

# Makes a store of the whole one's rows: (name, rows of each of its shards, changes of some part).
Cut = Callable[..., Path]


@pytest.fixture(scope="package")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Fourteen rows of five shards, the fourth empty; two views, with ranks. Tests leave it as it is."""
    return make_store(tmp_path_factory.mktemp("whole"), 5, (4, 1, 6, 0, 3), num_views=2)


def taken(part: Part, rows: Sequence[int], **changes: Any) -> Part:
    """Some rows of a part."""
    index = np.array(rows, dtype=np.int64)
    arrays = {n: getattr(part, n) for n in ("labels", "digests", "tickets", "ranks", "boxes", "flips")}
    cut = {n: None if a is None else a[index] for n, a in arrays.items()}
    return dataclasses.replace(part, **{"keys": part.keys.take(index), **cut, **changes})


@pytest.fixture
def cut(whole: Made, tmp_path: Path) -> Cut:
    """A function that writes, by a commit of parts, a store of some rows of the whole one."""

    def make(name: str, rows: dict[int, Sequence[int]], spec: dict[str, Any] | None = None, **changes: Any) -> Path:
        shards = [whole.spec.shards[s] for s in rows]
        parts = [taken(whole.parts[s], of_shard, **changes) for s, of_shard in rows.items()]
        write_parts(tmp_path / name, parts)
        commit(tmp_path / name, dataclasses.replace(whole.spec, shards=shards, **(spec or {})))
        return tmp_path / name

    return make
