"""The wheel holds every package and every file beside the modules: pyproject.toml lists them by hand."""

from __future__ import annotations

import fnmatch
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_SETUPTOOLS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
_FOLDERS = {folder: package for package, folder in _SETUPTOOLS["package-dir"].items()}


def _package(folder: Path) -> str:
    """The import name of a folder of the tree: its own, or that of the folder around it with its name."""
    relative = folder.relative_to(ROOT)
    return _FOLDERS.get(str(relative)) or f"{_package(folder.parent)}.{relative.name}"


def _files() -> list[Path]:
    found = [p for room in ("artifacts_schema", "stages", "pipeline") for p in sorted((ROOT / room).rglob("*"))]
    return [p for p in found if p.is_file() and "__pycache__" not in p.parts]


def test_every_package_of_the_tree_is_installed() -> None:
    assert {_package(p.parent) for p in _files() if p.suffix == ".py"} == set(_SETUPTOOLS["packages"])


def test_every_file_beside_the_modules_is_installed() -> None:
    data = _SETUPTOOLS["package-data"]
    left_out = [
        str(p.relative_to(ROOT))
        for p in _files()
        if p.suffix != ".py" and not any(fnmatch.fnmatch(p.name, each) for each in data.get(_package(p.parent), ()))
    ]
    assert left_out == []
