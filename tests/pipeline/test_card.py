"""A store's card: front matter that the hub parses, facts of the store, texts of others shown as they are."""

from __future__ import annotations

import html
import io
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from dataltt.artifacts_schema import OptionError, TicketStore, read_manifest
from dataltt.artifacts_schema.manifest import Manifest, Publication
from dataltt.artifacts_schema.publishing.publication import publish_as
from dataltt.pipeline.cli import app
from dataltt.pipeline.escaping import shown
from dataltt.pipeline.reports.card import (
    card_files,
    card_of,
    card_page,
    escaped,
    is_outdated,
    refuse_gallery,
    select_command,
    write_card,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image
from typer.main import get_command

from ..schema_helpers import Made, copy_store, digests_of, edit_manifest, make_store

PUBLICATION = Publication(
    license="CC-BY-4.0",
    citation="@misc{tickets,\n  title = {Tickets}\n}",
    authors=["Ada Lovelace", "Émilie du Châtelet"],
    homepage="https://lab.org/tickets_of_ours",
    data_license="CC0-1.0",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A store of two views, with ranks. Tests leave it as it is."""
    return make_store(tmp_path_factory.mktemp("carded"), num_views=2)


@pytest.fixture
def store(made: Made, tmp_path: Path) -> Path:
    """A copy to write to."""
    return copy_store(made, tmp_path)


def page_of(store: Path, **options: Any) -> str:
    """The card's page."""
    return card_files(TicketStore.open(str(store)), **options)["README.md"].decode()


def parts_of(page: str) -> tuple[dict[str, Any], str]:
    """Front matter and text."""
    before, front, text = page.split("---\n", 2)
    assert before == ""
    return yaml.safe_load(front), text


@pytest.mark.long  # the first picture of a process takes over a second
def test_the_front_matter_is_the_hubs(store: Path) -> None:
    manifest = publish_as(store, PUBLICATION)
    front, _ = parts_of(page_of(store))
    assert front == {
        "license": "cc-by-4.0",
        "pretty_name": "synthetic (train): tickets of 6/15 patches by synthetic",
        "task_categories": ["image-classification"],
        "tags": ["dataltt", "vision-transformer", "token-pruning", "lottery-ticket", "webdataset"],
        "source_datasets": ["synthetic"],
        "size_categories": ["n<1K"],
        "viewer": False,
        "dataltt": {
            "dataset": "synthetic",
            "split": "train",
            "model": "synthetic",
            "weights_sha256": "0" * 64,
            "num_keep": 6,
            "num_patches": 15,
            "ticket_digest": manifest.digest,
        },
    }


def test_a_licence_that_the_hub_does_not_know(store: Path) -> None:
    publish_as(store, Publication(license="Terms: of 'our' lab #3"))
    front, _ = parts_of(page_of(store))
    assert (front["license"], front["license_name"]) == ("other", "Terms: of 'our' lab #3")


def test_the_text_says_what_is_in_it(store: Path) -> None:
    manifest = publish_as(store, PUBLICATION)
    page = page_of(store, url="hf://datasets/lab/tickets")
    stored = TicketStore.open(str(store)).num_stored_bytes()
    for part in (
        "which 6 of 15 patches (40.0 %) of each of 11 images",
        "| ticket | 6 of 15 patches (40.0 %), 2 view(s) an image, with the rank of every patch |",
        "| view | drawn by policy synthetic, version 1, seed 0; replayed; decoded by pillow |",
        f"| ticket digest | `{manifest.digest}` |",
        f"| `ranks` | {stored['ranks']:,} | {stored['ranks'] / 11:.2f} |",
        f"| all | {sum(stored.values()):,} |",
        "dataltt train --tickets hf://datasets/lab/tickets --shards 'SHARDS'",
        "dataltt pull hf://datasets/lab/tickets\n",
        'dataltt.open("hf://datasets/lab/tickets")["KEY"].kept',
        "](card.png)",
        "The tickets are under CC-BY-4.0. The images they are of are under CC0-1.0.",
        "By Ada Lovelace, Émilie du Châtelet.",
        "<https://lab.org/tickets_of_ours>",
        "```\n@misc{tickets,\n  title = {Tickets}\n}\n```",
        "arXiv 2211.01484",
    ):
        assert part in page, part
    assert "approximate" not in page
    assert "card-gallery" not in page
    assert "\n\n\n" not in page


def test_headings_stand_alone(store: Path) -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(parts_of(page_of(store))[1])
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings == [
        "synthetic (train): tickets of 6/15 patches by synthetic",
        "What is in it",
        "How to use it",
        "Where on the image tickets lie",
        "How it was made",
        "Licence and citation",
    ]
    assert [t.type for t in tokens].count("table_open") == 2


def test_without_a_licence_it_says_so(store: Path) -> None:
    front, text = parts_of(page_of(store))
    assert "license" not in front
    assert "No licence of the tickets is given; ask who published them." in text


def test_the_picture_is_one(store: Path) -> None:
    with Image.open(io.BytesIO(card_files(TicketStore.open(str(store)))["card.png"])) as image:
        image.load()
        assert image.format == "PNG"
        assert image.width > 300


def test_a_thinned_store_is_called_approximate_and_parents_are_named(store: Path) -> None:
    digest = "ab" * 32

    def thin(m: Any) -> None:
        m.update(schema_version="2.0", thinned={"selected_num_keep": 8})
        m["selector"]["keep_counts"] = [8]
        m["parent"] = [
            {"ticket_digest": digest, "operation": "thin"},
            {"ticket_digest": "`<b>", "operation": "*merge*"},
        ]

    edit_manifest(store, thin)
    page = page_of(store)
    assert "**These tickets are approximate.** The selector kept 8 patches; the 6 here are" in page
    assert f"| thin | `{digest}` |\n| \\*merge\\* | `?` |" in page
    assert "<b>" not in page


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40))
def test_texts_are_shown_as_they_are(text: str) -> None:
    rendered = html.unescape(MarkdownIt("commonmark").render(f"By {escaped(text)}."))
    assert rendered == f"<p>By {shown(' '.join(text.split()))}.</p>\n"


_HOSTILE = "`|<script>*]# \\ \n\r\t---\n: {}![x](y)\"'%@&~_ü\U0001f600\u2028"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.sampled_from(_HOSTILE), min_size=1, max_size=30), min_size=5, max_size=5))
def test_nobodys_text_breaks_out(made: Made, texts: list[str]) -> None:
    """Names and licences of any characters: the front matter gives them back, the page has no markup of theirs."""
    m = made.manifest
    publication = Publication(
        license=texts[0], authors=[texts[1], "B"], homepage=texts[2], citation=texts[3], data_license=texts[4]
    )
    dataset = replace(m.dataset, name=texts[0], split=texts[1])
    m = replace(m, publication=publication, dataset=dataset, tool_version=texts[2])
    front, text = parts_of(card_page(m, {"tickets": 100}))
    assert (front["license"], front["license_name"]) == ("other", shown(texts[0]))
    assert (front["dataltt"]["dataset"], front["dataltt"]["split"]) == (shown(texts[0]), shown(texts[1]))
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    kinds = [token.type for token in tokens]
    assert kinds.count("heading_open") == 6
    assert kinds.count("html_block") == 1  # the mark of dataltt
    assert kinds.count("fence") == 4
    fences = [t.content for t in tokens if t.type == "fence"]
    inline = [child.type for token in tokens for child in token.children or []]
    assert inline.count("image") == 1
    assert "html_inline" not in inline
    lines = [text.replace("\r\n", "\n").replace("\r", "\n") for text in (select_command(m), texts[3])]
    assert shlex.split(fences[-2]) == shlex.split(shown(lines[0], keep="\n\t"))
    assert fences[-1].split() == shown(lines[1], keep="\n\t").split()


def _options_of(words: list[str]) -> dict[str, Any]:
    """What the command line makes of these words."""
    command = get_command(app).commands["select"]  # type: ignore[attr-defined]
    context = command.make_context("select", words)
    return dict(context.params)


@pytest.mark.usefixtures("own_folder")
def test_the_command_is_one_and_means_the_same(made: Made) -> None:
    words = shlex.split(select_command(made.manifest))
    assert words[:2] == ["dataltt", "select"]
    options = _options_of(words[2:])
    m = made.manifest
    assert options["model"] == m.selector.model
    assert options["ratio"] == m.selector.ratio
    assert tuple(options["drop_blocks"]) == tuple(m.selector.drop_blocks)
    assert (options["augment"], options["num_views"], options["seed"]) == ("synthetic", 2, 0)
    assert (options["ranks"], options["name"], options["split"]) == (True, "synthetic", "train")


def test_the_command_of_a_centre_view(made: Made) -> None:
    m = made.manifest
    selector = replace(m.selector, ratio=None, keep_rate=0.7, precision="bf16", drop_blocks=[3, 6, 9])
    centre: Manifest = replace(
        m,
        num_views=1,
        has_ranks=False,
        selector=selector,
        view=replace(m.view, kind="center", augment=None),
        dataset=replace(m.dataset, name="two words"),
    )
    assert select_command(centre) == (
        "dataltt select --model synthetic --checkpoint WEIGHTS --shards SHARDS --keep-rate 0.7 --drop-blocks 3,6,9 "
        "--decoder pillow --precision bf16 --name 'two words' --split train"
    )


def test_the_command_of_a_policy_names_its_smallest_crop(made: Made) -> None:
    augment = {"name": "deit", "version": 1, "seed": 3, "parameters": {"crop_scale": [0.25, 1.0]}}
    m = replace(made.manifest, view=replace(made.manifest.view, augment=augment))
    assert "--augment deit --seed 3 --min-crop 0.25 --num-views 2" in select_command(m)


# The gallery


@pytest.mark.parametrize(
    ("publication", "says"),
    [
        (None, r"`gallery=True` shows images to everybody; say by `data_license`"),
        (Publication(license="CC0-1.0"), r"say by `data_license`"),
        (
            Publication(data_license="CC-BY-NC-4.0"),
            r"`data_license='CC-BY-NC-4.0'` is not known to let images be shown",
        ),
    ],
)
def test_images_are_not_shown_without_leave(publication: Publication | None, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        refuse_gallery(publication)


def test_images_may_be_shown() -> None:
    refuse_gallery(PUBLICATION)


# The card in a folder


def test_push_finds_or_writes_it(store: Path) -> None:
    before = digests_of(store)
    made, said = card_of(store, "s3://bucket/tickets")
    assert made.keys() == {"README.md", "card.png"}
    assert "has no licence" in said
    assert digests_of(store).items() > before.items()
    assert (store / "README.md").read_bytes() == made["README.md"]
    (store / "README.md").write_bytes(made["README.md"] + b"\nOur own words.\n")
    (store / "card-gallery.png").write_bytes(b"a picture")
    (store / "notes.png").write_bytes(b"nobody's")
    again, said = card_of(store, None)
    assert again.keys() == {"README.md", "card.png", "card-gallery.png"}
    assert again["README.md"].endswith(b"Our own words.\n")
    assert said == ""


def test_a_link_is_no_card(store: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("XQZJ7")
    for name in ("README.md", "card.png"):
        (store / name).unlink(missing_ok=True)
        (store / name).symlink_to(secret)
    files, _ = card_of(store, None)
    assert not any(b"XQZJ7" in content for content in files.values())
    assert files["README.md"] == (store / "README.md").read_bytes()
    assert secret.read_text() == "XQZJ7"


def test_a_card_of_an_earlier_state_is_noticed(store: Path) -> None:
    write_card(store, card_files(TicketStore.open(str(store))))
    assert not is_outdated((store / "README.md").read_bytes(), read_manifest(str(store)))
    publish_as(store, PUBLICATION)
    assert is_outdated((store / "README.md").read_bytes(), read_manifest(str(store)))
    assert "earlier state; dataltt card" in card_of(store, None)[1]
    (store / "README.md").write_text("# of our own\n")
    assert card_of(store, None)[1] == ""


def test_a_gallery_that_is_not_asked_for_goes(store: Path) -> None:
    (store / "card-gallery.png").write_bytes(b"a picture")
    write_card(store, card_files(TicketStore.open(str(store))))
    assert not (store / "card-gallery.png").exists()
