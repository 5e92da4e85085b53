"""Reading what a page of `dataltt view` shows, by hand."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def read_page(out: Path) -> dict[str, Any]:
    """The document that data.js sets, read without a browser."""
    text = (out / "data.js").read_text(encoding="ascii")
    start, end = "window.DATALTT_VIEW = ", ";\n"
    assert text.startswith(start)
    assert text.endswith(end)
    document: dict[str, Any] = json.loads(text[len(start) : -len(end)])
    return document


def mask_of(document: dict[str, Any], image: dict[str, Any], view: int = 0) -> npt.NDArray[np.bool_]:
    """Kept patches of an image on the page, bool [P], bit by bit as the format of the store says."""
    num_patches = document["grid"][0] * document["grid"][1]
    data = base64.b64decode(image["tickets"])
    first = view * -(-num_patches // 8)
    return np.array([data[first + p // 8] >> (p % 8) & 1 for p in range(num_patches)], dtype=np.bool_)


def ranks_of(document: dict[str, Any], image: dict[str, Any], view: int = 0) -> list[int]:
    """Ranks of an image on the page, by patch."""
    num_patches, size = document["grid"][0] * document["grid"][1], document["rankBytes"]
    data = base64.b64decode(image["ranks"])
    starts = [(view * num_patches + p) * size for p in range(num_patches)]
    return [int.from_bytes(data[start : start + size], "little") for start in starts]
