"""dataltt push, pull and card: what they print, what they leave behind, and one sentence for whatever goes wrong."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
from dataltt.artifacts_schema import TicketStore, read_manifest
from dataltt.stages.selection.select import select
from PIL import Image

from ..far.http_server import FileServer
from ..far.hub_writing import WRITER, WritableHub
from ..helpers import CliResult, SmallStore, file_digests, make_store, run_cli, select_config
from ..schema_helpers import edit_manifest

pytestmark = pytest.mark.usefixtures("own_folder", "no_credentials")


@pytest.fixture
def store(small: SmallStore, tmp_path: Path) -> Path:
    """A copy to write to."""
    return Path(
        shutil.copytree(small.path, tmp_path / "train.zarr", ignore=shutil.ignore_patterns("README.md", "card*"))
    )


def _said(result: CliResult) -> str:
    """One sentence on standard error, nothing on standard output, and a failure."""
    assert (result.code, result.out) == (1, ""), result
    (sentence,) = [line for line in result.err.splitlines() if line.startswith("dataltt: ")]
    assert "Traceback" not in result.err
    return sentence


def test_from_one_lab_to_another(store: Path, tmp_path: Path) -> None:
    """The first writes a card and pushes, the second pulls, and both have the same tickets."""
    card = run_cli("card", store, "--license", "CC-BY-4.0", "--author", "Ada", "--author", "Bob")
    assert (card.code, card.err) == (0, "")
    assert "wrote README.md, card.png" in card.out
    manifest = read_manifest(str(store))
    assert manifest.publication is not None
    assert manifest.publication.authors == ["Ada", "Bob"]
    pushed = run_cli("push", store, tmp_path / "www" / "train.zarr", "--json")
    assert pushed.code == 0, pushed.err
    said = json.loads(pushed.out)
    assert said["ticket_digest"] == manifest.digest
    assert (said["num_sent"], said["num_skipped"]) == (len(manifest.objects) + 3, 0)
    with FileServer(tmp_path / "www") as server:
        pulled = run_cli("pull", f"{server.url}/train.zarr", "--json")
    assert pulled.code == 0, pulled.err
    found = json.loads(pulled.out)
    assert (found["store"], found["ticket_digest"]) == ("train.zarr", manifest.digest)
    assert found["card"] == ["README.md", "card.png"]
    assert not Path("train.zarr/local.json").exists()
    near, far = TicketStore.open("train.zarr"), TicketStore.open(str(store))
    assert (near.read_tickets(range(36)) == far.read_tickets(range(36))).all()


def test_for_people(store: Path, tmp_path: Path) -> None:
    first = run_cli("push", store, tmp_path / "far.zip")
    digest, num = read_manifest(str(store)).digest, len(read_manifest(str(store)).objects)
    assert f"far.zip: {num + 3} file(s) sent (" in first.out
    assert f"; all compared there; tickets {digest}\n" in first.out
    assert "the store has no licence; give it one: dataltt card" in first.err
    assert "sending" in first.err
    again = run_cli("push", store, tmp_path / "far.zip")
    assert f"0 file(s) sent (0 bytes), {num + 3} there already" in again.out
    pulled = run_cli("pull", tmp_path / "far.zip")
    assert f"far.zarr: {num} object(s) fetched (" in pulled.out
    assert f"0 object(s) fetched (0 bytes), {num} here already" in run_cli("pull", tmp_path / "far.zip").out


def test_a_fetched_store_asks_for_shards(store: Path, tmp_path: Path) -> None:
    """The first lab's path stays with it: there `verify` and `train` need no --shards, here they ask for them."""
    run_cli("push", store, tmp_path / "far.zarr")
    result = run_cli("train", "--tickets", tmp_path / "far.zarr", "--out", tmp_path / "run", "--device", "cpu")
    assert "--shards" in _said(result)
    assert not any(str(tmp_path).encode() in p.read_bytes() for p in (tmp_path / "far.zarr").rglob("*") if p.is_file())


def test_the_hub_by_its_url(store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("DATALTT_CACHE", str(tmp_path / "cache"))
    with WritableHub() as hub:
        options = ("--storage-option", f"endpoint={hub.url}", "--storage-option", f"token={WRITER}")
        pushed = run_cli("push", store, "hf://datasets/lab/tickets", "--private", *options)
        assert pushed.code == 0, pushed.err
        assert hub.repositories["lab/tickets"].token == WRITER
        card = hub.repositories["lab/tickets"].files["README.md"].decode()
        assert "dataltt train --tickets hf://datasets/lab/tickets --shards 'SHARDS'" in card
        assert WRITER not in card
        pulled = run_cli("pull", "hf://datasets/lab/tickets", *options)
        assert pulled.code == 0, pulled.err
        assert Path("tickets.zarr/zarr.json").exists()
        without = run_cli("push", store, "hf://datasets/lab/tickets", "--storage-option", f"endpoint={hub.url}")
        assert "hf auth login" in _said(without)


def test_a_baked_folder_travels_when_its_pixels_may(small: SmallStore, tmp_path: Path) -> None:
    drawn = make_store(tmp_path / "drawn", counts=(3, 2), augment="crop", num_views=2)
    baked = run_cli("bake", "--tickets", drawn.store, "--shards", drawn.shards, "--out", "baked", "--workers", 0)
    assert baked.code == 0, baked.err
    far, before = tmp_path / "www" / "crops", file_digests(Path("baked"))
    assert "its pixels stay under the licence of the data set; pass --with-pixels" in _said(
        run_cli("push", "baked", far)
    )
    assert not far.exists()
    pushed = run_cli("push", "baked", far, "--with-pixels", "--json")
    assert pushed.code == 0, pushed.err
    said = json.loads(pushed.out)
    assert (said["ticket_digest"], said["num_sent"]) == (read_manifest(drawn.store).digest, len(before) + 1)
    again = json.loads(run_cli("push", "baked", far, "--with-pixels", "--json").out)
    assert (again["num_sent"], again["num_skipped"]) == (0, len(before) + 1)
    card = (far / "README.md").read_text()
    assert f"`{said['ticket_digest']}`" in card
    assert "under the licence of that data set" in card
    with FileServer(tmp_path / "www") as server:
        pulled = run_cli("pull", f"{server.url}/crops", "--json")
        assert pulled.code == 0, pulled.err
        assert json.loads(pulled.out)["store"] == "crops"
        assert {**file_digests(Path("crops")), "README.md": None} == {**before, "README.md": None}
        # One byte of a shard is another there: it does not come here.
        shard = next(far.glob("view-000/*.tar"))
        content = bytearray(shard.read_bytes())
        content[700] ^= 1
        shard.write_bytes(content)
        damaged = _said(run_cli("pull", f"{server.url}/crops", "other"))
    assert f"view-000/{shard.name} has another SHA-256" in damaged
    assert not Path("other").exists()
    assert "is a store" not in _said(run_cli("pull", drawn.store, "crops"))
    assert run_cli("verify", "crops").code == 0
    Path("crops/classes.json").write_text("[]")
    assert run_cli("verify", "crops").code == 1
    assert "crops is damaged: classes.json" in _said(run_cli("push", "crops", tmp_path / "c.zip", "--with-pixels"))


def test_a_baked_folder_in_a_zip_file(tmp_path: Path) -> None:
    drawn = make_store(tmp_path / "drawn", counts=(3, 2), augment="crop", num_views=1)
    assert run_cli("bake", "--tickets", drawn.store, "--shards", drawn.shards, "--out", "baked").code == 0
    assert run_cli("push", "baked", "far.zip", "--with-pixels").code == 0
    assert run_cli("pull", "far.zip", "near").code == 0
    before = file_digests(Path("baked"))
    assert {name: digest for name, digest in file_digests(Path("near")).items() if name in before} == before
    assert "holds another baked folder" in _rebaked(drawn)


def _rebaked(drawn: SmallStore) -> str:
    """What a push of other bytes over far.zip says."""
    options = ("--patches", "all", "--out", "other", "--workers", 0)
    assert run_cli("bake", "--tickets", drawn.store, "--shards", drawn.shards, *options).code == 0
    return _said(run_cli("push", "other", "far.zip", "--with-pixels"))


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (("push", "STORE", "http://lab.org/a"), ("nothing can be sent to http://lab.org/a", "s3://BUCKET")),
        (("push", "STORE", "far.zarr", "--private"), ("--private is for repositories of the hub",)),
        (("push", "s3://bucket/a", "far.zarr"), ("--store s3:", "fetch it first: dataltt pull URL")),
        (("push", "absent.zarr", "far.zarr"), ("there is no ticket store at absent.zarr",)),
        (("push", "STORE", "OTHER"), ("holds a store of other tickets", "--overwrite")),
        (("push", "STORE", "thesis"), ("thesis exists and holds something else",)),
        (("pull", "absent.zarr"), ("there is no ticket store at absent.zarr",)),
        (("pull", "STORE", "OTHER"), ("is a ticket store in another state", "--overwrite")),
        (("pull", "STORE", "thesis"), ("thesis exists and is not a ticket store",)),
        (("pull", "STORE", "s3://bucket/a"), ("is a URL", "path on this machine")),
        (("card", "absent.zarr"), ("there is no ticket store at absent.zarr",)),
        (("card", "STORE", "--license", " "), ("--license is empty",)),
        (("card", "STORE", "--gallery"), ("--gallery shows images to everybody", "--data-license")),
        (("card", "STORE", "--gallery", "--data-license", "CC0-1.0"), ("--shards",)),
        (
            ("card", "STORE", "--gallery", "--data-license", "CC-BY-NC-4.0", "--shards", "SHARDS"),
            ("--data-license CC-BY-NC-4.0 is not known to let images be shown", "CC-BY-4.0"),
        ),
    ],
)
def test_one_sentence(small: SmallStore, store: Path, args: tuple[str, ...], parts: tuple[str, ...]) -> None:
    other = Path(shutil.copytree(store, store.parent / "other.zarr"))
    edit_manifest(other, lambda m: m["view"].update(mean=[0.1], std=[0.9]))
    Path("thesis").mkdir()
    Path("thesis/chapter.tex").write_text("years of work")
    before = file_digests(store)
    named = {"STORE": store, "OTHER": other, "SHARDS": small.shards}
    sentence = _said(run_cli(*(named.get(each, each) for each in args)))
    for part in parts:
        assert part in sentence
    assert {n: d for n, d in file_digests(store).items() if n in before} == before
    assert Path("thesis/chapter.tex").read_text() == "years of work"


# The card


def test_publication_is_added_to_bit_by_bit(store: Path) -> None:
    digest = read_manifest(str(store)).digest
    run_cli("card", store, "--license", "MIT", "--author", "Ada")
    result = run_cli("card", store, "--homepage", "https://lab.org", "--data-license", "CC0-1.0", "--json")
    said = json.loads(result.out)
    assert said["files"] == ["README.md", "card.png"]
    assert said["publication"] == {
        "license": "MIT",
        "citation": None,
        "authors": ["Ada"],
        "homepage": "https://lab.org",
        "data_license": "CC0-1.0",
    }
    assert read_manifest(str(store)).digest == digest
    assert run_cli("verify", store).code == 0


def test_what_a_card_lacks_is_said(store: Path) -> None:
    assert "no licence is given" in run_cli("card", store).err
    assert "is not on the hub's list of licences" in run_cli("card", store, "--license", "our terms").err
    assert run_cli("card", store, "--license", "MIT").err == ""


def test_a_gallery_of_images_that_may_be_shown(small: SmallStore, store: Path) -> None:
    options = ("--data-license", "MIT", "--license", "MIT", "--gallery", "--shards", small.shards)
    result = run_cli("card", store, *options)
    assert (result.code, result.err) == (0, "")
    with Image.open(store / "card-gallery.png") as image:
        image.load()
        assert image.width > image.height
    assert "card-gallery.png" in (store / "README.md").read_text()
    run_cli("card", store)
    assert not (store / "card-gallery.png").exists()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_an_old_store_gets_a_licence_and_keeps_its_path_to_itself(version: str, tmp_path: Path) -> None:
    old = Path(__file__).parent.parent / "data" / f"store-{version}.zarr"
    store = Path(shutil.copytree(old, tmp_path / "old.zarr"))
    was = read_manifest(str(store))
    assert run_cli("card", store, "--license", "MIT").code == 0
    now = read_manifest(str(store))
    assert (now.schema_version, now.dataset.source, now.digest) == ("1.2", "", was.digest)
    assert json.loads((store / "local.json").read_text()) == {"shards": was.dataset.source}
    assert run_cli("verify", store).code == 0


@pytest.mark.long
@pytest.mark.parametrize("augment", ["none", "deit"])
def test_the_call_on_the_card_makes_the_same_tickets(small: SmallStore, tmp_path: Path, augment: str) -> None:
    from dataltt.pipeline.reports.card import select_command

    views = {"augment": augment, "num_views": 2, "seed": 3, "min_crop": 0.3} if augment != "none" else {}
    manifest = select(select_config(small.shards, small.weights, tmp_path / "a.zarr", ranks=True, **views))
    assert manifest is not None
    given = {"WEIGHTS": small.weights, "SHARDS": small.shards}
    words = [given.get(word, word) for word in shlex.split(select_command(manifest))[1:]]
    result = run_cli(*words, "--out", tmp_path / "b.zarr", "--workers", 0, "--device", "cpu")
    assert result.code == 0, result.err
    again = read_manifest(str(tmp_path / "b.zarr"))
    assert again.digest == manifest.digest
    assert (again.dataset.name, again.dataset.split) == (manifest.dataset.name, manifest.dataset.split)


# At select


def test_a_licence_at_select(small: SmallStore, tmp_path: Path) -> None:
    facts = {"license": "CC-BY-4.0", "author": ("Ada", "Bob"), "citation": "Us, 2026.", "data_license": "MIT"}
    manifest = select(select_config(small.shards, small.weights, tmp_path / "s.zarr", ranks=True, **facts))
    assert manifest is not None
    publication = read_manifest(str(tmp_path / "s.zarr")).publication
    assert manifest.publication == publication
    assert publication is not None
    assert (publication.license, publication.authors, publication.homepage) == ("CC-BY-4.0", ["Ada", "Bob"], None)
    assert manifest.digest == small.manifest.digest


def test_parts_are_gone_on_from_under_another_licence(small: SmallStore, tmp_path: Path) -> None:
    """A selection that was cut off before its commit, and then given a licence."""
    from dataltt.artifacts_schema.writing.parts import parts_dir
    from dataltt.stages.selection import select as module

    out = tmp_path / "s.zarr"
    first = select_config(small.shards, small.weights, out, ranks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "commit", lambda *args, **kwargs: None)
        module.select(first)
    parts = file_digests(parts_dir(out))
    assert len(parts) == 4
    manifest = module.select(first.but(license="MIT"))
    assert manifest is not None
    assert manifest.publication is not None
    assert manifest.publication.license == "MIT"
    assert manifest.digest == small.manifest.digest
