"""Keys that two ranks both have are found by the one whose part comes second."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataltt.artifacts_schema import DuplicateKeyError
from dataltt.artifacts_schema.writing.parts import write_part
from dataltt.stages.runtime.reporting import SilentReporter
from dataltt.stages.selection.part_checks import PartChecks

from ...schema_helpers import make_part, make_spec


def test_a_key_of_another_rank(tmp_path: Path) -> None:
    spec = make_spec(shards=["a.tar", "b.tar", "c.tar", "d.tar"])
    parts = [make_part(spec, index, 3) for index in range(3)]
    ranks = [PartChecks(tmp_path, None, "*.tar", SilentReporter()) for _ in range(2)]
    for index, part in enumerate(parts):
        ranks[index % 2].check(part)
        write_part(tmp_path, index, part)
    again = make_part(spec, 3, 3, keys=parts[2].keys)
    with pytest.raises(DuplicateKeyError, match=r"'klasse_2/bild-é00000' occurs in c\.tar and d\.tar"):
        ranks[1].check(again)


def test_parts_of_ones_own_are_no_doubles(tmp_path: Path) -> None:
    spec = make_spec(shards=["a.tar", "b.tar"])
    checks = PartChecks(tmp_path, None, "*.tar", SilentReporter())
    for index in range(2):
        part = make_part(spec, index, 3)
        checks.check(part)
        write_part(tmp_path, index, part)
        assert sum(map(len, checks._known._runs)) == 3 * (index + 1)
