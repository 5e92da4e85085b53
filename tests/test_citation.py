"""CITATION.cff is one that tools read, and is of this version."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def citation() -> dict[str, Any]:
    """The document; YAML makes a date or number of what looks like one."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    return found


def test_it_has_what_the_format_requires(citation: dict[str, Any]) -> None:
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    (paper,) = citation["references"]
    assert paper.keys() >= {"type", "title", "authors"}
    assert all({"name", "family-names"} & author.keys() for author in [*citation["authors"], *paper["authors"]])


def test_it_names_the_version_and_licence_of_the_package(citation: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] in project["license"]
