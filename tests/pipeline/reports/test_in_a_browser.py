"""Pages in a real browser: no sideways scrolling, the class filter, the keyboard, and what a screen reader is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from dataltt.artifacts_schema.store import TicketStore
from dataltt.artifacts_schema.summary import kept_share
from dataltt.pipeline.reports.demo_report import DemoResult, DemoRow, write_report
from dataltt.pipeline.reports.gallery import write_gallery
from dataltt.pipeline.reports.study_report import STUDY_FILE, write_study_report
from dataltt.stages.analysis.shown_images import ShownImages
from dataltt.stages.runtime.reporting import SilentReporter

from ...browser_helpers import CHROMIUM, Browser, browser
from ...gallery_helpers import read_page
from ...helpers import Sample, SmallStore, fashion_samples, make_store

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]

_LONG_KEY = "<script>" + "a_very_long_key_without_any_place_to_break_it" * 4


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def _page(folder: Path, **options: Any) -> tuple[SmallStore, Path]:
    samples = fashion_samples(40)
    samples[0] = Sample(key=_LONG_KEY, image=samples[0].image, label=samples[0].label)
    samples[1] = Sample(key=samples[1].key, image=samples[1].image, label=None)
    small = make_store(folder, counts=(40,), samples=samples, **options)
    images = ShownImages(small.store, None, num_views=3)
    write_gallery(images, images.choose(None), folder / "out", overwrite=False, reporter=SilentReporter())
    return small, folder / "out" / "index.html"


@pytest.fixture(scope="module")
def center(tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallStore, Path]:
    return _page(tmp_path_factory.mktemp("center"))


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallStore, Path]:
    return _page(tmp_path_factory.mktemp("replayed"), augment="deit", num_views=3)


def _drawn_mask(chromium: Browser, tile: int) -> npt.NDArray[np.bool_]:
    """Kept patches of a tile as its picture shows them: what no hatched run covers, bool [P]."""
    path = f"document.querySelectorAll('#gallery li')[{tile}].querySelector('svg path')"
    chromium.run(f"document.querySelectorAll('#gallery li')[{tile}].scrollIntoView()")
    chromium.wait_for(path)
    kept = np.ones((7, 7), dtype=np.bool_)
    for run in str(chromium.run(f"{path}.getAttribute('d')")).split("z")[:-1]:
        start, length = run.removeprefix("M").split("v1")[0].split("h")
        x, y = map(int, start.split(" "))
        assert kept[y, x : x + int(length)].all()
        kept[y, x : x + int(length)] = False
    return kept.ravel()


def _visible(chromium: Browser) -> list[int]:
    script = "[...document.querySelectorAll('#gallery li')].filter(li => li.offsetParent).map(li => +li.dataset.number)"
    return [int(n) for n in chromium.run(script)]


def _focused(chromium: Browser) -> str:
    """Name of what has the focus: a tile's number, or an id."""
    return str(chromium.run("(a => a.closest('li')?.dataset.number ?? a.id)(document.activeElement)"))


@pytest.mark.parametrize("width_px", [400, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_scrolls_sideways(
    chromium: Browser, center: tuple[SmallStore, Path], replayed: tuple[SmallStore, Path], width_px: int, dark: bool
) -> None:
    for _, page in (center, replayed):
        chromium.open(page, width_px, dark=dark)
        assert chromium.run("document.documentElement.clientWidth") in range(width_px - 20, width_px + 1)
        assert not chromium.scrolls_sideways
        chromium.run("document.querySelector('summary').click()")
        assert not chromium.scrolls_sideways
        chromium.run("document.querySelector('.scroll table').style.width = '1px'")
        assert (
            chromium.run("document.querySelector('.scroll tbody td').offsetHeight") < 30
        )  # a number stays on its line
        chromium.run("document.querySelector('.tile').click()")
        assert chromium.run("document.getElementById('zoom').open")
        assert chromium.run("(z => z.scrollWidth <= z.clientWidth)(document.getElementById('zoom'))")
        ink, paper = chromium.run(
            "(s => [s.color, s.backgroundColor].map(c => c.match(/\\d+/g).slice(0, 3).map(Number)))"
            "(getComputedStyle(document.body))"
        )
        assert (sum(ink) > sum(paper)) == dark
    assert chromium.problems == []


def test_nothing_is_fetched_from_elsewhere(chromium: Browser, center: tuple[SmallStore, Path]) -> None:
    _, page = center
    chromium.requests.clear()
    chromium.open(page)
    chromium.wait_for("document.images[0].complete && document.images[0].naturalWidth")
    folder = page.parent.as_uri()
    assert len(chromium.requests) > 4
    assert [url for url in chromium.requests if not url.startswith((f"{folder}/", "data:,"))] == []


def test_hatched_patches_are_those_that_the_store_drops(chromium: Browser, replayed: tuple[SmallStore, Path]) -> None:
    small, page = replayed
    chromium.open(page)
    images = read_page(page.parent)["images"]
    for view in range(3):
        chromium.choose("#view", str(view))
        masks = small.masks(view)
        for tile in (0, 1, 39):
            chromium.wait_for(
                f"document.querySelectorAll('#gallery img')[{tile}].getAttribute('src').endsWith('-{view}.png')"
            )
            assert np.array_equal(_drawn_mask(chromium, tile), masks[images[tile]["key"]])


def test_heat_maps_show_ranks_and_where_tickets_lie(chromium: Browser, center: tuple[SmallStore, Path]) -> None:
    small, page = center
    chromium.open(page)
    chromium.run("document.querySelector('input[value=heat]').click()")
    chromium.wait_for("document.querySelector('#gallery canvas')")
    pixels = "[...e.getContext('2d').getImageData(0, 0, 7, 7).data]"
    found = np.array(chromium.run(f"(e => {pixels})(document.querySelector('#gallery canvas'))")).reshape(49, 4)
    ranks = small.ranks()[_LONG_KEY]
    brightness = found[:, :3].sum(axis=1)
    assert np.array_equal(np.argsort(-brightness), np.argsort(ranks))  # viridis grows brighter all along
    assert found[np.argmin(ranks)].tolist() == [253, 231, 37, 255]
    share = kept_share(TicketStore.open(small.store)).ravel()
    lie = np.array(chromium.run(f"(e => {pixels})(document.getElementById('map-store'))")).reshape(49, 4)
    assert lie[np.argmax(share)].tolist() == [253, 231, 37, 255]
    assert lie[np.argmin(share)].tolist() == [68, 1, 84, 255]
    texts = [chromium.run(f"document.getElementById('map-store-{end}').textContent") for end in ("low", "high")]
    assert texts == [f"{100 * share.min():.0f} %", f"{100 * share.max():.0f} %"]
    assert chromium.run("document.getElementById('legend-kept').hidden")


def test_the_class_filter_counts_aloud(chromium: Browser, center: tuple[SmallStore, Path]) -> None:
    small, page = center
    chromium.open(page)
    status = "document.getElementById('status').textContent"
    assert chromium.run(status) == "40 of 40 images shown"
    assert chromium.run("document.getElementById('status').getAttribute('aria-live')") == "polite"
    wanted = [i for i, s in enumerate(small.samples) if s.label == 1]
    chromium.choose("#class", "1")
    assert _visible(chromium) == wanted
    assert chromium.run(status) == f"{len(wanted)} of 40 images shown of class Trouser"
    masks = small.masks()
    share = np.mean([masks[small.samples[i].key] for i in wanted], axis=0)
    assert chromium.run("document.getElementById('map-shown-high').textContent") == f"{100 * share.max():.0f} %"
    chromium.choose("#class", "-1")
    assert _visible(chromium) == [1]
    assert chromium.run(status) == "1 of 40 images shown of class no class"
    chromium.choose("#class", "")
    assert len(_visible(chromium)) == 40


def test_all_can_be_reached_by_the_keyboard(chromium: Browser, center: tuple[SmallStore, Path]) -> None:
    small, page = center
    chromium.open(page, 1000)
    order = []
    for _ in range(7):
        chromium.press("Tab")
        order.append(chromium.run("(a => a.tagName + (a.name || a.id))(document.activeElement)"))
    assert order == ["A", "SUMMARY", "INPUTshow", "SELECTclass", "BUTTON", "BODY", "A"]
    for _ in range(4):
        chromium.press("Tab")
    assert _focused(chromium) == "0"
    outline = "(s => [s.outlineStyle, parseFloat(s.outlineWidth)])(getComputedStyle(document.activeElement))"
    assert chromium.run(outline) == ["solid", 3]
    columns = int(chromium.run("getComputedStyle(gallery).gridTemplateColumns.split(' ').length"))
    assert columns > 2
    for key, at in (
        *(("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("ArrowDown", 1 + columns), ("ArrowUp", 1)),
        *(("ArrowUp", 1), ("End", 39), ("ArrowRight", 39), ("Home", 0), ("ArrowLeft", 0)),
    ):
        chromium.press(key)
        assert _focused(chromium) == str(at), key
    # What the filter hides is passed over.
    trousers = [i for i, s in enumerate(small.samples) if s.label == 1]
    chromium.choose("#class", "1")
    chromium.run("document.querySelector('.tile[tabindex=\"0\"]').focus()")
    assert _focused(chromium) == str(trousers[0])
    chromium.press("ArrowRight")
    assert _focused(chromium) == str(trousers[1])


def test_an_image_is_enlarged_and_left_again_by_the_keyboard(
    chromium: Browser, replayed: tuple[SmallStore, Path]
) -> None:
    small, page = replayed
    chromium.open(page)
    chromium.run("document.querySelector('.tile').focus()")
    chromium.press("Enter")
    zoom, key = "document.getElementById('zoom')", "document.getElementById('zoom-key').textContent"
    assert chromium.run(f"{zoom}.open")
    assert chromium.run(key) == _LONG_KEY
    assert chromium.run(f"{zoom}.querySelectorAll('.panels').length") == 3
    assert chromium.run(f"{zoom}.querySelectorAll('figure').length") == 9
    assert chromium.run("document.getElementById('previous').disabled")
    assert chromium.run("document.getElementById('zoom-place').textContent").startswith("Image 1 of 40, ")
    chromium.press("ArrowRight")
    assert chromium.run(key) == small.samples[1].key
    assert "no class" in chromium.run("document.getElementById('zoom-facts').textContent")
    chromium.press("Tab")
    assert _focused(chromium) == "previous"
    chromium.press("Enter")
    assert chromium.run(key) == _LONG_KEY
    assert _focused(chromium) == "zoom-key"  # the button that had the focus can do no more
    chromium.press("ArrowRight")
    chromium.press("Escape")
    assert not chromium.run(f"{zoom}.open")
    chromium.wait_for("document.activeElement.closest('li')?.dataset.number === '1'")


def _told(chromium: Browser, role: str) -> list[str]:
    """Names that a screen reader gets of all that has this role."""
    nodes = chromium.call("Accessibility.getFullAXTree")["nodes"]
    return [str(n["name"]["value"]) for n in nodes if not n["ignored"] and n.get("role", {}).get("value") == role]


def test_what_a_screen_reader_is_told(chromium: Browser, replayed: tuple[SmallStore, Path]) -> None:
    small, page = replayed
    chromium.open(page)
    assert _told(chromium, "heading") == [f"Tickets of {small.manifest.dataset.name}", "Where tickets lie", "Images"]
    tiles = _told(chromium, "button")
    assert len(tiles) == 40
    assert tiles[0].startswith(f"{_LONG_KEY}, ")
    assert "view 1: 25 of 49 patches kept, " in tiles[0]
    assert "no class" in tiles[1]
    middle = small.masks()[_LONG_KEY].reshape(7, 7)[2:5, 2:5].sum()  # the rows whose middles are in the inner half
    assert f"{round(100 * middle / 25)} % of them in the middle quarter" in tiles[0]
    assert _told(chromium, "combobox") == ["Class", "View"]
    assert _told(chromium, "radio") == ["Kept patches", "Rank heat map", "Image alone"]
    maps = [name for name in _told(chromium, "image") if name.startswith("Heat map")]
    assert len(maps) == 2
    assert "keep a position" in maps[0]
    chromium.run("document.querySelector('.tile').click()")
    assert _told(chromium, "dialog") == [_LONG_KEY]
    assert _told(chromium, "button") == ["Previous", "Next", "Close"]


def test_a_key_is_never_run(chromium: Browser, center: tuple[SmallStore, Path]) -> None:
    _, page = center
    chromium.open(page)
    assert chromium.run("document.scripts.length") == 2
    assert chromium.run("document.querySelector('.tile').title") == _LONG_KEY
    assert chromium.problems == []


# ---- The other pages


def _demo_page(small: SmallStore, folder: Path) -> Path:
    names = {"(c)": "dense", "(a)": "ticket", "(b)": "random"}
    for name in names.values():
        (folder / name).mkdir()
        (folder / name / "metrics.jsonl").write_text('{"epoch": 0, "val_top1": 50.0}\n{"epoch": 1, "val_top1": 60.5}\n')
    result = DemoResult(
        rows=[DemoRow(label=k, trained_on=n, tested_on="ticket", top1=71.25, loss=0.75) for k, n in names.items()],
        num_keep=25,
        num_patches=49,
        ratio=0.5,
        epochs=2,
        seed=0,
        seconds=1.0,
        runs={label: str(folder / name) for label, name in names.items()},
        report=str(folder / "report.html"),
    )
    write_report(result, test_store=small.store, test_shards=small.shards, num_train=10, num_test=10)
    return folder / "report.html"


def _study_page(folder: Path) -> Path:
    seeds = list(range(6))
    row = {
        "arm": "a-very-long-name-of-an-arm",
        "group": "",
        "trained_on": "ticket",
        "tested_on": "ticket",
        "sd": 0.5,
        "top1": {str(s): 70.0 for s in seeds},
        "mean": 70.0,
        "loss": 1.0,
        "bytes_per_image": 30.0,
        "num_steps": 9,
    }
    paired = {"mean": 1.0, "low": 0.5, "high": 1.5, "num_seeds": 6}
    difference = {"name": "(c) − (a)", "paired": paired}
    document = {"study": "s", "seeds": seeds, "results": [row], "differences": [difference], "cost": None}
    (folder / STUDY_FILE).write_text(json.dumps(document))
    return write_study_report(folder)


def test_reports_do_not_scroll_sideways_and_put_numbers_to_the_right(
    chromium: Browser, center: tuple[SmallStore, Path], tmp_path: Path
) -> None:
    demo, study = tmp_path / "demo", tmp_path / "study"
    demo.mkdir()
    study.mkdir()
    for page in (_demo_page(center[0], demo), _study_page(study)):
        for width_px in (400, 1400):
            chromium.open(page, width_px)
            assert not chromium.scrolls_sideways, page
            # A header stands where the numbers below it stand.
            aligned = chromium.run(
                "[...document.querySelectorAll('table')].map(t => [t.rows[0], t.rows[1]].map(r => [...r.cells].map("
                "c => getComputedStyle(c).textAlign)))"
            )
            assert all(header == cells for header, cells in aligned)
            assert all("right" in header for header, _ in aligned)
    chromium.open(demo / "report.html", 400)
    assert chromium.run("(e => e.scrollWidth > e.clientWidth)(document.querySelector('pre'))")
