"""The page to look at tickets: it says what the store says, is written whole or not at all, and believes no text."""

from __future__ import annotations

import html
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataltt.artifacts_schema import BadImageError, OutputExistsError, TicketMismatchError, TicketStore
from dataltt.artifacts_schema.summary import kept_share
from dataltt.pipeline.reports.gallery import Gallery, _write_pictures, write_gallery
from dataltt.stages.analysis.shown_images import ShownImages
from dataltt.stages.data.drawing import ViewDrawer
from dataltt.stages.data.images import decode_bytes, to_pillow
from dataltt.stages.data.policies import policy_of
from dataltt.stages.runtime.reporting import SilentReporter
from PIL import Image

from ...far.http_server import FileServer
from ...gallery_helpers import mask_of, ranks_of, read_page
from ...helpers import GRID, Sample, SmallStore, fashion_samples, file_digests, make_shards, make_store, run_cli
from ...schema_helpers import edit_manifest

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """Two views of each of 12 images, with colours, and no ranks."""
    folder = tmp_path_factory.mktemp("replayed")
    return make_store(folder, counts=(8, 4), augment="deit", num_views=2, ranks=False)


def _write(store: str, out: Path, shards: str | None = None, count: int | None = 200, **options: bool) -> Gallery:
    images = ShownImages(store, shards, num_views=4)
    overwrite = options.get("overwrite", False)
    return write_gallery(images, images.choose(count), out, overwrite=overwrite, reporter=SilentReporter())


# ---- What it says


def test_the_page_holds_the_stores_own_tickets_and_ranks(small: SmallStore, tmp_path: Path) -> None:
    gallery = _write(small.store, tmp_path / "out")
    document = read_page(tmp_path / "out")
    assert (gallery.num_images, gallery.num_views, len(document["images"])) == (36, 1, 36)
    assert (document["grid"], document["rankBytes"]) == ([7, 7], 1)
    assert [image["row"] for image in document["images"]] == list(range(36))
    masks, ranks = small.masks(), small.ranks()
    for image in document["images"]:
        assert np.array_equal(mask_of(document, image), masks[image["key"]])
        assert ranks_of(document, image) == ranks[image["key"]].tolist()
        assert image["label"] == small.label_of[image["key"]]
        assert image["views"] is None
    share = kept_share(TicketStore.open(small.store))
    assert document["share"] == pytest.approx(share.ravel().tolist(), abs=5e-5)


def test_views_are_shown_as_the_selector_saw_them(replayed: SmallStore, tmp_path: Path) -> None:
    _write(replayed.store, tmp_path / "out")
    document, m = read_page(tmp_path / "out"), replayed.manifest
    assert m.view.seed is not None
    assert (document["numViews"], document["rankBytes"]) == (2, 0)
    drawer = ViewDrawer(policy_of("deit"), m.view, image_px=m.image_px, num_views=2, seed=m.view.seed)
    images = {sample.key: decode_bytes(sample.image, m.view.mode, m.view.decoder_name) for sample in replayed.samples}
    for shown in document["images"]:
        drawn = drawer.draw_all(images[shown["key"]], shown["key"])
        assert shown["ranks"] is None
        for number, view in enumerate(drawn):
            with Image.open(tmp_path / "out" / shown["files"][number]) as file:
                assert np.array_equal(np.asarray(file), np.asarray(to_pillow(view.image)))
            assert np.array_equal(mask_of(document, shown, number), replayed.masks(number)[shown["key"]])
            assert shown["views"][number] == pytest.approx([*view.box.tolist(), int(view.flip)], abs=5e-5)
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "colours are drawn again from the same seed" in page
    assert "The store has no ranks" in page


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"pixels_xxh3": "0" * 16}, "this installation's libraries may give other ones"),
        ({"name": "a policy of tomorrow"}, "without their colours"),
    ],
)
def test_colours_that_cannot_be_drawn_again_are_said(
    replayed: SmallStore, tmp_path: Path, change: dict[str, str], note: str
) -> None:
    path = Path(shutil.copytree(replayed.path, tmp_path / "s.zarr"))
    edit_manifest(path, lambda manifest: manifest["view"]["augment"].update(change))
    gallery = _write(str(path), tmp_path / "out", replayed.shards)
    assert gallery.num_images == 12
    assert note in html.unescape((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))


def test_photographs_are_small_files_and_tickets_have_their_place(tmp_path: Path) -> None:
    """Pictures above 64 px become JPEG files of at most 256 px."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    photo = Image.fromarray(pixels).resize((600, 400))
    small = make_store(tmp_path, counts=(2,), samples=fashion_samples(2))
    images = ShownImages(small.store, None)
    shown = next(images.read(np.array([1])))
    (tmp_path / "images").mkdir()
    large = photo.crop((0, 0, 400, 400))
    files = _write_pictures(tmp_path, replace(shown, views=[large, large.resize((128, 128))]))
    assert files == ["images/1-0.jpg", "images/1-1.jpg"]
    sizes = []
    for name in files:
        with Image.open(tmp_path / name) as file:
            assert file.format == "JPEG"
            sizes.append(file.size)
    assert sizes == [(256, 256), (128, 128)]


@pytest.mark.long
def test_a_thousand_images_are_files_and_no_text_of_the_page(tmp_path: Path) -> None:
    small = make_store(tmp_path, counts=(600, 400), batch_size=100)
    result = run_cli("view", small.store, "--out", tmp_path / "out", "--images", 1000, "--json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert (document["num_images"], document["num_views"]) == (1000, 1)
    out = tmp_path / "out"
    assert len(list((out / "images").iterdir())) == 1000
    files = [p for p in out.rglob("*") if p.is_file()]
    assert document["num_bytes"] == sum(p.stat().st_size for p in files)
    page = (out / "index.html").read_text(encoding="utf-8")
    assert len(page) < 20_000
    assert "base64" not in page
    assert (out / "data.js").stat().st_size < 300 * 1000
    keys = [image["key"] for image in read_page(out)["images"]]
    assert len(set(keys)) == 1000


# ---- Texts of others


def test_keys_class_names_and_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    evil = "<script>alert('key')<\u2215script>\u2028&amp;\"'${x}"
    samples = [Sample(key=evil, image=s.image, label=i) for i, s in enumerate(fashion_samples(1))]
    small = make_store(tmp_path, counts=(1,), samples=samples, name="<b>name</b>", split="</title><script>")
    classes = tmp_path / "shards" / "classes.json"
    classes.write_text(json.dumps({"</script><img src=x onerror=alert(1)>": 0}))
    out = tmp_path / "out"
    _write(small.store, out)
    page, data = (out / "index.html").read_text(encoding="utf-8"), (out / "data.js").read_bytes()
    assert page.count("<script") == 2
    assert "<b>" not in page
    assert "&lt;b&gt;name&lt;/b&gt;" in page
    assert b"<" not in data
    assert data.isascii()
    document = read_page(out)
    assert document["images"][0]["key"] == evil.replace("\u2028", "\\u2028")
    assert document["classes"] == {"0": "</script><img src=x onerror=alert(1)>"}
    assert sorted(p.name for p in (out / "images").iterdir()) == ["0-0.png"]


def test_the_page_asks_for_its_own_files_alone(small: SmallStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _write(small.store, out)
    assert {p.name for p in out.iterdir()} == {
        *("index.html", "data.js", "view.js", "view.css", "images", "dataltt-view.json"),
    }
    for name in ("index.html", "view.css", "view.js"):
        text = (out / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text
        assert "@import" not in text
        assert "fetch(" not in text
    images = read_page(out)["images"]
    assert {name for image in images for name in image["files"]} == {
        f"images/{p.name}" for p in (out / "images").iterdir()
    }


# ---- Whole or not at all


def test_an_existing_folder_that_is_no_page_is_left_alone(small: SmallStore, tmp_path: Path) -> None:
    folder, file, link = tmp_path / "photos", tmp_path / "file", tmp_path / "link"
    folder.mkdir()
    (folder / "a.txt").write_text("mine")
    file.write_text("mine")
    link.symlink_to(folder)
    for out in (folder, file, link, Path(), Path("..")):
        for overwrite in (False, True):
            with pytest.raises(OutputExistsError, match="choose another `out`"):
                _write(small.store, out, overwrite=overwrite)
    with pytest.raises(OutputExistsError, match="there is no folder"):
        _write(small.store, tmp_path / "gone" / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "link", "photos"]
    assert [p.name for p in folder.iterdir()] == ["a.txt"]
    assert (folder / "a.txt").read_text() == file.read_text() == "mine"


def test_an_earlier_page_is_replaced_when_asked_for(small: SmallStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is nobody's
    _write(small.store, out, count=5)
    with pytest.raises(OutputExistsError, match="`overwrite=True`"):
        _write(small.store, out, count=3)
    assert len(read_page(out)["images"]) == 5
    _write(small.store, out, count=3, overwrite=True)
    assert len(read_page(out)["images"]) == len(list((out / "images").iterdir())) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("has_earlier", [True, False])
def test_a_damaged_image_leaves_what_was_there(tmp_path: Path, has_earlier: bool) -> None:
    small = make_store(tmp_path / "made", counts=(4,))
    folder = tmp_path / "pages"
    folder.mkdir()
    if has_earlier:
        _write(small.store, folder / "out")
    before = file_digests(folder)
    damaged = [*small.samples[:3], replace(small.samples[3], image=b"no image")]
    shards = make_shards(tmp_path / "damaged", (4,), damaged)
    images = ShownImages(small.store, shards, on_changed_image="allow")
    with pytest.raises(BadImageError, match=damaged[3].key):
        write_gallery(images, images.choose(9), folder / "out", overwrite=True, reporter=SilentReporter())
    assert file_digests(folder) == before
    assert [p.name for p in folder.iterdir()] == (["out"] if has_earlier else [])


class _Intruder(SilentReporter):
    """Puts a folder where the page is to be while its images are drawn."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def advance(self, amount: int, note: str = "") -> None:
        """Takes the place."""
        self.out.mkdir(exist_ok=True)
        (self.out / "a.txt").write_text("mine")


def test_a_folder_that_comes_meanwhile_is_left_alone(small: SmallStore, tmp_path: Path) -> None:
    images, out = ShownImages(small.store, None), tmp_path / "out"
    with pytest.raises(OutputExistsError, match="choose another `out`"):
        write_gallery(images, images.choose(2), out, overwrite=True, reporter=_Intruder(out))
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in out.iterdir()] == ["a.txt"]


# ---- The command


def test_the_command_finds_the_stores_own_shards(small: SmallStore, tmp_path: Path) -> None:
    result = run_cli("view", small.store, "--out", tmp_path / "out", "--images", 7)
    assert result.code == 0, result.err
    assert f"{tmp_path / 'out' / 'index.html'}: 7 images, " in result.out
    assert len(read_page(tmp_path / "out")["images"]) == 7


def test_a_store_and_shards_behind_a_url(small: SmallStore, replayed: SmallStore, tmp_path: Path) -> None:
    for made in (small, replayed):
        here, far = tmp_path / f"here-{made.folder.name}", tmp_path / f"far-{made.folder.name}"
        _write(made.store, here)
        with FileServer(made.folder) as server:
            name = "train-{000000..000002}.tar" if made is small else "train-{000000..000001}.tar"
            call = ("view", f"{server.url}/{made.path.name}", "--cache-dir", tmp_path / "cache", "--out", far)
            unsaid = run_cli(*call)
            assert unsaid.code == 1
            assert "pass --shards" in unsaid.err
            result = run_cli(*call, "--shards", f"{server.url}/shards/{name}")
        assert result.code == 0, result.err
        there, expected = read_page(far), read_page(here)
        assert there["images"] == expected["images"]
        assert there["share"] == expected["share"]
        pictures, own = file_digests(far / "images"), file_digests(here / "images")
        assert pictures == own
        assert len(own) == there["numViews"] * len(there["images"])


def test_a_thinned_store_is_said_to_be_approximate(small: SmallStore, tmp_path: Path) -> None:
    path = Path(shutil.copytree(small.path, tmp_path / "s.zarr"))

    def thin(manifest: dict[str, Any]) -> None:
        # The tickets stay as they are: of a selector that kept more.
        manifest.update(schema_version="2.0", thinned={"selected_num_keep": 31})
        manifest["selector"]["keep_counts"][-1] = 31

    edit_manifest(path, thin)
    _write(str(path), tmp_path / "out", small.shards, count=2)
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "approximate: cut by ranks from the 31 that it kept" in page
    result = run_cli("inspect", path)
    assert "approximate: 25 patches, by rank, of the 31" in " ".join(result.out.split())


def test_one_class_by_name_or_number(small: SmallStore, tmp_path: Path) -> None:
    wanted = [s.key for s in small.samples if s.label == 1]
    assert len(wanted) >= 2
    for name in ("Trouser", "1"):
        out = tmp_path / name
        assert run_cli("view", small.store, "--out", out, "--only-class", name).code == 0
        document = read_page(out)
        assert [image["key"] for image in document["images"]] == wanted
        assert document["classes"] == {"1": "Trouser"}
    few = run_cli("view", small.store, "--out", tmp_path / "few", "--only-class", "Trouser", "--images", 1, "--json")
    assert json.loads(few.out)["num_images"] == 1


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--only-class", "Trousers"), ("--only-class Trousers", "did you mean 'Trouser'?")),
        (("--only-class", "77"), ("no image of class 77",)),
        (("--shards", "gone-*.tar"), ("no shard matches --shards 'gone-*.tar'",)),
        (("--images", "0"), ("--images 0", "at least 1")),
    ],
)
def test_errors_are_sentences(
    small: SmallStore, tmp_path: Path, options: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    result = run_cli("view", small.store, "--out", tmp_path / "out", *options)
    assert result.code == 1
    assert result.err.startswith("dataltt: ")
    assert result.err.count("\n") == 1
    for part in parts:
        assert part in result.err
    assert not (tmp_path / "out").exists()


def test_images_of_other_bytes_are_refused_or_allowed(small: SmallStore, tmp_path: Path) -> None:
    others = [replace(s, image=o.image) for s, o in zip(small.samples, fashion_samples(36, first=100), strict=True)]
    shards = make_shards(tmp_path / "others", (12, 12, 12), others)
    call = ("view", small.store, "--out", tmp_path / "out", "--shards", shards)
    refused = run_cli(*call)
    assert refused.code == 1
    assert "--on-changed-image allow" in refused.err
    assert run_cli(*call, "--on-changed-image", "allow").code == 0
    assert len(read_page(tmp_path / "out")["images"]) == 36


def test_shards_of_other_images_are_refused(small: SmallStore, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "others", (5,), fashion_samples(5, first=500), name="other")
    with pytest.raises(TicketMismatchError, match="none of the 36 chosen images"):
        _write(small.store, tmp_path / "out", shards)


def test_the_grid_has_its_side(small: SmallStore, tmp_path: Path) -> None:
    _write(small.store, tmp_path / "out", count=2)
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert page.count('<th scope="row">') == GRID[0]
    assert page.count('<th scope="col">') == GRID[1]
