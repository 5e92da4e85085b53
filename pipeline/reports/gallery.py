"""A page to look at a store's tickets: a folder of static files that a browser opens from disk.

The pictures are files of their own, one for each image and view; patches and ranks are drawn over them by the page's
script, from data.js. That is a script and no JSON file, since browsers let no page on disk fetch another file.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image

from ...artifacts_schema import Manifest, OutputExistsError
from ...artifacts_schema.files import writing
from ...artifacts_schema.summary import kept_share
from ...artifacts_schema.thinning import kept_in_words
from ...stages.analysis.shown_images import Rows, ShownImage, ShownImages
from ...stages.runtime.reporting import Reporter
from ...stages.runtime.version import tool_version
from ..escaping import in_document, in_page

INDEX_FILE, DATA_FILE, IMAGE_FOLDER = "index.html", "data.js", "images"
MARKER_FILE = "dataltt-view.json"  # says that the folder may be replaced
DATA_GLOBAL = "DATALTT_VIEW"
_MAX_PX = 256  # side of a picture; a tile is smaller, and the enlarged view not much larger
_LOSSLESS_PX = 64  # smaller pictures are shown pixel by pixel
_MAX_TABLE = 32  # columns of the table of numbers
_NUM_COLOURS = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """A page that was written: its file, and how many images and views of each it shows, in how many bytes."""

    index: str
    num_images: int
    num_views: int
    num_bytes: int


def write_gallery(images: ShownImages, rows: Rows, out: Path, *, overwrite: bool, reporter: Reporter) -> Gallery:
    """Writes the page of these rows' images into the folder `out`, whole or not at all.

    Raises:
        OutputExistsError: `out` is taken by something else, or by an earlier page without `overwrite`.
        DatalttError: the shards cannot be read, or do not fit the store, or the page cannot be written.
    """
    check_free(out, overwrite)
    images.fetch(rows, reporter)
    with writing(out), _whole_folder(out, overwrite) as folder:
        (folder / IMAGE_FOLDER).mkdir()
        entries = []
        reporter.start("drawing images", len(rows), "images")
        for shown in images.read(rows):
            entries.append(_entry(shown, _write_pictures(folder, shown)))
            reporter.advance(1)
        reporter.finish()
        if len(entries) < len(rows):
            reporter.message(f"{len(rows) - len(entries)} of the {len(rows)} chosen images are not in these shards")
        entries.sort(key=lambda entry: entry["row"])
        share = kept_share(images.store)
        (folder / DATA_FILE).write_text(_script(_document(images, entries, share)), encoding="ascii")
        (folder / INDEX_FILE).write_text(_page(images, len(entries), share), encoding="utf-8", errors="replace")
        for name in ("view.css", "view.js"):
            (folder / name).write_text(_own_file(name), encoding="utf-8")
        marker = {"tool_version": tool_version(), "store": images.store.path, "num_images": len(entries)}
        (folder / MARKER_FILE).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
        num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Gallery(
        index=str(out / INDEX_FILE), num_images=len(entries), num_views=images.num_views, num_bytes=num_bytes
    )


def check_free(out: Path, overwrite: bool) -> None:
    """Checks that a page may be written to the folder `out`: nothing is there, an empty folder, or an earlier page.

    Raises:
        OutputExistsError: something else is there, or an earlier page without `overwrite`.
    """
    if not out.exists() and not out.is_symlink():
        if not out.absolute().parent.is_dir():
            raise OutputExistsError(f"`out={str(out)!r}`: there is no folder {out.absolute().parent}; make it first")
        return
    if out.is_dir() and not out.is_symlink() and out.name not in ("", ".."):  # where one stands is not to be moved
        if not any(out.iterdir()):
            return
        if (out / MARKER_FILE).is_file():
            if overwrite:
                return
            raise OutputExistsError(f"{out} holds an earlier page; pass `overwrite=True` to replace it")
    raise OutputExistsError(f"{out} exists, and is no page that dataltt view wrote; choose another `out`")


@contextmanager
def _whole_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A new folder beside `out` that takes its place at the end, or vanishes when something goes wrong."""
    folder = out.absolute().with_name(f".{out.absolute().name}.tmp-{os.getpid()}")
    before = folder.with_name(f"{folder.name}-before")
    folder.mkdir()
    try:
        yield folder
        check_free(out, overwrite)  # somebody may have come meanwhile
        if out.exists():
            os.replace(out, before)
        os.replace(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if before.exists() and not out.exists():
            os.replace(before, out)
        raise
    shutil.rmtree(before, ignore_errors=True)


def _write_pictures(folder: Path, shown: ShownImage) -> list[str]:
    """Writes an image's views; returns their paths in the folder. Keys are no part of them: they may hold anything."""
    names = []
    for number, view in enumerate(shown.views):
        is_small = view.width <= _LOSSLESS_PX
        name = f"{IMAGE_FOLDER}/{shown.row}-{number}.{'png' if is_small else 'jpg'}"
        if is_small:
            view.save(folder / name, "PNG")
        else:
            small = view if view.width <= _MAX_PX else view.resize((_MAX_PX, _MAX_PX), Image.Resampling.LANCZOS)
            small.save(folder / name, "JPEG", quality=82)
        names.append(name)
    return names


def _entry(shown: ShownImage, files: list[str]) -> dict[str, Any]:
    """An image in data.js: tickets and ranks as the bytes of the store's arrays, views end to end, in base64."""
    ranks = None if shown.ranks is None else shown.ranks.astype(shown.ranks.dtype.newbyteorder("<"))
    views = None
    if shown.boxes is not None and shown.flips is not None:
        boxes = shown.boxes.astype(np.float64).round(4).tolist()
        views = [[*box, int(flip)] for box, flip in zip(boxes, shown.flips, strict=True)]
    return {
        "key": shown.key,
        "row": shown.row,
        "label": shown.label,
        "shard": shown.shard,
        "size": list(shown.size_px),
        "files": files,
        "tickets": base64.b64encode(shown.packed.tobytes()).decode(),
        "ranks": None if ranks is None else base64.b64encode(ranks.tobytes()).decode(),
        "views": views,
    }


def _document(images: ShownImages, entries: list[dict[str, Any]], share: npt.NDArray[np.float64]) -> dict[str, Any]:
    m = images.manifest
    labels = sorted({entry["label"] for entry in entries if entry["label"] is not None})
    viridis = colormaps["viridis"]
    return {
        "grid": list(m.grid),
        "numViews": images.num_views,
        "rankBytes": (1 if m.num_patches <= 256 else 2) if m.has_ranks else 0,
        "pixelated": m.image_px <= _LOSSLESS_PX,
        "share": share.ravel().round(4).tolist(),
        "classes": {str(label): images.class_names.get(label, f"class {label}") for label in labels},
        "colours": [to_hex(viridis(i / (_NUM_COLOURS - 1))) for i in range(_NUM_COLOURS)],
        "images": entries,
    }


def _script(document: dict[str, Any]) -> str:
    """The document as a script that sets a global, in ASCII; < is escaped, wherever the script may be put."""
    text = json.dumps(in_document(document), separators=(",", ":"), ensure_ascii=True).replace("<", "\\u003c")
    return f"window.{DATA_GLOBAL} = {text};\n"


def _page(images: ShownImages, num_shown: int, share: npt.NDArray[np.float64]) -> str:
    environment = jinja2.Environment(
        autoescape=True, finalize=in_page, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    m = images.manifest
    return environment.from_string(_own_file("view.html.jinja")).render(
        m=m,
        name=images.store.path,
        views_note=_views_note(m, images),
        num_shown=num_shown,
        num_views=images.num_views,
        share=share.tolist() if m.grid[1] <= _MAX_TABLE else [],
        mean_share=100 * float(share.mean()),
        kept=kept_in_words(m).replace("%", "\N{NO-BREAK SPACE}%"),
        version=tool_version(),
    )


def _views_note(m: Manifest, images: ShownImages) -> str:
    if m.view.kind == "center":
        return f"Images are shown as the selector saw them: the central square, {m.image_px} px a side."
    colours = {
        "exact": "colours are drawn again from the same seed",
        "other": "colours are drawn again, but this installation's libraries may give other ones",
        "none": "without their colours, since this version does not know the policy that drew them",
    }
    return (
        f"Images are shown as the selector saw them: crops of policy {m.view.policy_name!r}, {colours[images.colours]}."
    )


def _own_file(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
