"""Pictures: their scales, titles, order and lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataltt.artifacts_schema import TicketStore
from dataltt.artifacts_schema.summary import kept_share
from dataltt.pipeline.reports.figures import (
    fidelity_figure,
    heat_map_figure,
    overlay,
    shortened,
    store_figure,
    write_heat_map,
    write_png,
    write_ticket_gallery,
)
from dataltt.stages.analysis.sample_tickets import SampleTicket, spread_sample_tickets
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ...helpers import SmallStore


@settings(max_examples=50)
@given(text=st.text(max_size=60), length=st.integers(5, 40))
def test_shortened_texts_keep_their_ends(text: str, length: int) -> None:
    short = shortened(text, length)
    if len(text) <= length:
        assert short == text
        return
    assert len(short) == length
    head, tail = short[: (length - 1) // 3], short[(length - 1) // 3 + 1 :]
    assert short[len(head)] == "…"
    assert text.startswith(head)
    assert text.endswith(tail)


def test_a_heat_map_has_the_range_of_its_own_shares() -> None:
    share = np.array([[0.25, 0.5], [0.5, 0.75]])
    axes, bar = heat_map_figure(share).axes
    assert axes.images[0].get_clim() == (0.25, 0.75)
    assert all(t.get_text().endswith("%") for t in bar.get_yticklabels())
    assert axes.get_title() == "kept share per position (mean 50.0%)"
    same, _ = heat_map_figure(np.full((2, 2), 1.0), "all $are$ kept").axes
    assert same.images[0].get_clim() == (0.95, 1.0)
    assert same.get_title() == "all $are$ kept"


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("brightness", [0, 255])
def test_dropped_patches_differ_from_kept_ones_on_black_and_on_white(mode: str, brightness: int) -> None:
    image = Image.new(mode, (32, 32), brightness if mode == "L" else (brightness,) * 3)
    mask = np.array([[True, False], [False, True]])
    pixels = overlay(SampleTicket(key="a", label=0, image=image, mask=mask))
    assert pixels.shape == np.asarray(image).shape
    assert (pixels[:16, :16] == brightness).all()
    assert (pixels[16:, 16:] == brightness).all()
    dropped = pixels[:16, 16:].reshape(256, -1)[:, 0]
    assert 0.1 < np.mean(dropped > 100) < 0.4  # the lines
    assert np.unique(dropped).size == 2
    if brightness:
        assert dropped.max() < 200


@pytest.mark.parametrize("key", ["a/$x$/{b}", "短い鍵/" * 9, "x" * 4000])
def test_keys_are_titles_as_they_are(key: str, tmp_path: Path) -> None:
    sample = SampleTicket(key=key, label=0, image=Image.new("L", (8, 8)), mask=np.eye(2, dtype=bool))
    titles = [a.get_title() for a in store_figure(np.eye(2), [sample]).axes]
    assert shortened(key, 24) in titles
    write_ticket_gallery([sample], tmp_path / "a.png")
    write_png(store_figure(np.eye(2), [sample]), tmp_path / "b.png")


def test_fidelity_is_sorted_and_has_the_line_of_chance() -> None:
    rows = [("b", 0.5, 0.4), ("c", 0.9, 0.8), ("a", 0.3, 0.1)]
    axes = fidelity_figure(rows, "title", 0.334).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b", "c"]  # from below
    assert [bar.get_width() for bar in axes.patches] == [0.3, 0.5, 0.9]
    (line,) = axes.lines
    assert list(line.get_xdata()) == [0.334, 0.334]
    assert line.get_label() == "chance (0.334)"
    assert not fidelity_figure(rows, "title").axes[0].lines


@pytest.mark.long
def test_pictures_for_a_card(small: SmallStore, tmp_path: Path) -> None:
    store = TicketStore.open(small.store)
    write_heat_map(store, tmp_path / "card.png")
    write_ticket_gallery(spread_sample_tickets(small.store, None, 10), tmp_path / "gallery.png")
    sizes = {}
    for path in sorted(tmp_path.iterdir()):
        with Image.open(path) as image:
            assert image.format == "PNG"
            sizes[path.name] = image.size
            colours = {tuple(pixel) for pixel in np.asarray(image.convert("RGB")).reshape(-1, 3)[::7]}
            assert len(colours) > 20
    assert sizes == {"card.png": (690, 600), "gallery.png": (1620, 870)}
    assert heat_map_figure(kept_share(store)).axes[0].images[0].get_array().shape == (7, 7)
