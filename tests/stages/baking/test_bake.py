"""Baked folders: what stands in their tars, by webdataset's own reader; how they go on; and what is refused."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from dataltt.artifacts_schema import (
    BakedError,
    DatalttError,
    DiskError,
    OptionError,
    OutputExistsError,
    TicketMismatchError,
    TicketStore,
)
from dataltt.artifacts_schema.baked import mosaic_size, read_baked
from dataltt.artifacts_schema.identity import checksum_of
from dataltt.stages.baking.bake import file_names, which_patches
from dataltt.stages.baking.verify_baked import verify_baked
from dataltt.stages.data.baked_stream import BakedSource
from dataltt.stages.data.baked_tar import BakedTarWriter
from dataltt.stages.data.drawing import PolicyViews
from dataltt.stages.data.images import decode_bytes, normalize, to_tensor
from dataltt.stages.data.patch_pixels import (
    by_pillow,
    by_torchvision,
    decode_mosaic,
    encode_mosaic,
    image_of,
    normalize_patches,
    patches_of,
)
from dataltt.stages.data.policies import replayed_policy
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_iterator

from ...disks import FULL, Disk
from ...helpers import SmallStore, file_digests, run_cli, run_on_two_ranks
from .conftest import bake_of


def _read(folder: Path, view: int) -> list[dict[str, Any]]:
    """All samples of a view, by webdataset."""
    samples: list[dict[str, Any]] = []
    for shard in read_baked(folder).shards:
        with (folder / shard.files[view].path).open("rb") as file:
            samples += group_by_keys({**member, "__url__": ""} for member in tar_file_iterator(file))
    return samples


def _drawn_pixels(store: SmallStore, view: int) -> dict[str, npt.NDArray[np.uint8]]:
    """The views that training would draw, uint8 [H, W, C] by key."""
    opened = TicketStore.open(store.store)
    m, rows = opened.manifest, range(opened.manifest.num_images)
    drawer = PolicyViews(replayed_policy(m.view, store.store), m.view, m.image_px)
    boxes, flips = opened.read_views(rows)
    images = {s.key: s.image for s in store.samples}
    found = {}
    for i, key in enumerate(opened.read_keys(rows)):
        image = decode_bytes(images[key], m.view.mode, m.view.decoder_name)
        shown = drawer.show(image, boxes[i, view], bool(flips[i, view]), m.view.seed, key, view)
        found[key] = to_tensor(shown.image).permute(1, 2, 0).numpy()
    return found


@pytest.mark.parametrize("patches", ["kept", "0.7", "all"])
@pytest.mark.parametrize("name", ["drawn", "unranked"])
def test_webdataset_reads_the_pixels_of_the_views(
    name: str, patches: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store: SmallStore = request.getfixturevalue(name)
    if (name, patches) == ("unranked", "0.7"):
        with pytest.raises(OptionError, match=r"by rank, and .* has no ranks; give 'kept' or 'all'"):
            bake_of(store, tmp_path / "baked", patches)
        return
    baked = bake_of(store, tmp_path / "baked", patches)
    num_baked = {"kept": 25, "0.7": 35, "all": 49}[patches]
    assert (baked.num_baked, baked.num_images, baked.highest_label) == (num_baked, 36, 9)
    for view in range(baked.num_views):
        samples, pixels, masks = _read(tmp_path / "baked", view), _drawn_pixels(store, view), store.masks(view)
        ranks = store.ranks(view) if name == "drawn" else {}
        assert [s["__key__"] for s in samples] == [s.key for s in store.samples]
        for sample in samples:
            key, found = sample["__key__"], np.frombuffer(sample["patches"], np.uint8).reshape(num_baked, 4, 4, 1)
            assert int(sample["cls"]) == store.label_of[key]
            positions = np.frombuffer(sample["idx"], "<u2") if "idx" in sample else np.arange(49)
            np.testing.assert_array_equal(found, patches_of(pixels[key], 4)[positions])
            if "ranks" in sample:
                np.testing.assert_array_equal(np.frombuffer(sample["ranks"], np.uint8), ranks[key][positions])
            if patches == "kept":
                np.testing.assert_array_equal(positions, np.flatnonzero(masks[key]))
            elif patches == "0.7":
                np.testing.assert_array_equal(positions, np.flatnonzero(ranks[key] < 35))
            elif name == "unranked":
                np.testing.assert_array_equal(np.frombuffer(sample["kept"], "<u2"), np.flatnonzero(masks[key]))


@pytest.mark.long
def test_jpeg_mosaics_are_near_the_pixels_and_a_fraction_of_the_bytes(coloured: SmallStore, tmp_path: Path) -> None:
    raw, jpeg = (bake_of(coloured, tmp_path / e, "kept", encoding=e) for e in ("raw", "jpeg"))
    assert (raw.quality, jpeg.quality, jpeg.num_baked) == (None, 95, 98)
    sample = _read(tmp_path / "jpeg", 1)[3]
    with Image.open(io.BytesIO(sample["jpg"])) as image:
        assert (image.size, image.mode) == ((160, 160), "RGB")
    source, exact = (BakedSource.of(tmp_path / e, read_baked(tmp_path / e)) for e in ("jpeg", "raw"))
    for number in range(4):
        near, true = (s.open("train-000001.tar", 1).read(number) for s in (source, exact))
        np.testing.assert_array_equal(near.positions, true.positions)
        error = np.abs(near.patches.astype(int) - true.patches)
        assert error.mean() < 1.0
        assert error.max() < 16
    ratio = sum(s.files[0].num_bytes for s in jpeg.shards) / sum(s.files[0].num_bytes for s in raw.shards)
    assert ratio < 0.25


@given(
    num_patches=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    patch_px=st.sampled_from([8, 16]),
    seed=st.integers(0, 9),
)
def test_a_mosaic_gives_its_patches_back(num_patches: int, channels: int, patch_px: int, seed: int) -> None:
    rows, columns = mosaic_size(num_patches)
    assert (rows - 1) * columns < num_patches <= rows * columns
    assert rows <= columns <= rows + 1
    values = np.random.default_rng(seed).integers(0, 256, (num_patches, 1, 1, channels), np.uint8)
    patches = np.broadcast_to(values, (num_patches, patch_px, patch_px, channels)).copy()
    encoded = encode_mosaic(patches, 100)
    np.testing.assert_array_equal(by_torchvision(encoded, channels), by_pillow(encoded, channels))
    found = decode_mosaic(encoded, num_patches, patch_px, channels)
    # Plain patches: what bled from one into the next would show.
    assert np.abs(found.astype(int) - patches).max() <= 3


@given(damage=st.data())
def test_a_damaged_mosaic_is_an_error_or_of_its_size(damage: st.DataObject) -> None:
    encoded = bytearray(encode_mosaic(np.zeros((5, 8, 8, 3), np.uint8), 90))
    for _ in range(damage.draw(st.integers(1, 4))):
        encoded[damage.draw(st.integers(0, len(encoded) - 1))] = damage.draw(st.integers(0, 255))
    del encoded[damage.draw(st.integers(0, len(encoded))) :]
    with contextlib.suppress(ValueError):
        assert decode_mosaic(bytes(encoded), 5, 8, 3).shape == (5, 8, 8, 3)


@given(
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)), patch_px=st.integers(1, 4), channels=st.sampled_from([1, 3])
)
def test_patches_make_up_their_image(grid: tuple[int, int], patch_px: int, channels: int) -> None:
    shape = (grid[0] * patch_px, grid[1] * patch_px, channels)
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    patches = patches_of(image, patch_px)
    assert patches.shape == (grid[0] * grid[1], patch_px, patch_px, channels)
    np.testing.assert_array_equal(image_of(patches, grid), image.transpose(2, 0, 1))


@pytest.mark.long
def test_patches_are_normalised_as_images_are(coloured: SmallStore) -> None:
    view = coloured.manifest.view
    image = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    patches = torch.from_numpy(patches_of(image[0].permute(1, 2, 0).numpy(), 16))[None]
    whole = normalize(image, view)[0].unflatten(1, (2, 16)).unflatten(3, (3, 16)).permute(1, 3, 0, 2, 4).flatten(0, 1)
    assert torch.equal(normalize_patches(patches, view)[0], whole)


def test_long_keys_and_the_tars_bytes() -> None:
    buffer = io.BytesIO()
    writer = BakedTarWriter(buffer)
    key = "a" * 150 + "/" + "b" * 90
    writer.add(key, [("patches", b"12345"), ("cls", b"7")])
    sha256 = writer.finish()
    assert (writer.num_bytes, sha256) == (len(buffer.getvalue()), hashlib.sha256(buffer.getvalue()).hexdigest())
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as tar:
        assert tar.getnames() == [f"{key}.patches", f"{key}.cls"]


def test_names_of_files() -> None:
    assert file_names(["a-0.tar", "b.tar.gz"]) == ("a-0", "b")
    assert file_names(["x/a b.tar", "y/a b.tar"]) == ("000000-a_b", "000001-a_b")
    assert file_names([".tar"]) == ("000000-",)


def test_which_patches(drawn: SmallStore) -> None:
    m = drawn.manifest
    assert [which_patches(a, m, "s") for a in ("kept", "all", "1", "0.7", ".52")] == [
        ("kept", 25),
        ("all", 49),
        ("all", 49),
        ("share", 35),
        ("share", 26),
    ]
    with pytest.raises(OptionError, match=r"`patches='0.3'` is 15 patches, and tickets in s keep 25"):
        which_patches("0.3", m, "s")
    for bad in ("most", "0", "nan", "1.5"):
        with pytest.raises(OptionError, match="should be 'kept', 'all', or a share"):
            which_patches(bad, m, "s")


@pytest.mark.long
def test_it_goes_on_from_whole_shards(drawn: SmallStore, tmp_path: Path, fixed_time: None) -> None:
    bake_of(drawn, tmp_path / "whole")
    shards = tmp_path / "shards"
    shutil.copytree(Path(drawn.shards).parent, shards)
    last = shards / "train-000002.tar"
    content = last.read_bytes()
    last.write_bytes(content[: len(content) // 2])
    out = tmp_path / "baked"
    with pytest.raises(DatalttError, match=r"train-000002\.tar"):
        bake_of(drawn, out, shards=str(shards / "*.tar"))
    first = out / "view-001" / "train-000000.tar"
    assert not (out / "baked.json").exists()
    assert sorted(p.name for p in (out / "parts").iterdir()) == ["part-000000.json", "part-000001.json", "plan.json"]
    assert len(list(out.glob("view-*/*"))) == 6
    with pytest.raises(BakedError, match="is not finished; run the same bake again"):
        read_baked(out)
    before = first.stat()
    with pytest.raises(DatalttError, match=r"parts of another bake \(it differs in num_views\).*or pass `overwrite"):
        bake_of(drawn, out, num_views=2)
    last.write_bytes(content)
    bake_of(drawn, out, shards=str(shards / "*.tar"))
    assert first.stat().st_mtime_ns == before.st_mtime_ns
    assert file_digests(out) == file_digests(tmp_path / "whole")
    done = file_digests(out)
    # Killed after its end, and while it wrote the list of classes.
    (out / "parts").mkdir()
    (out / "parts" / "part-000002.json").write_text("{}")
    (out / "classes.json.tmp-999999999").write_text("{")
    with pytest.raises(OutputExistsError, match="is baked already; pass `overwrite=True`"):
        bake_of(drawn, out)
    assert file_digests(out) == done
    bake_of(drawn, out, "kept", overwrite=True, num_views=1)
    assert sorted(p.name for p in out.iterdir()) == ["baked.json", "classes.json", "view-000"]


@pytest.mark.slow
@pytest.mark.two_ranks
def test_two_ranks_bake_the_same_bytes(drawn: SmallStore, tmp_path: Path, fixed_time: None) -> None:
    bake_of(drawn, tmp_path / "one", "kept")
    done = run_on_two_ranks(
        tmp_path,
        "bake",
        "--tickets",
        drawn.store,
        "--out",
        tmp_path / "two",
        "--workers",
        0,
        env={"SOURCE_DATE_EPOCH": "1700000000"},
    )
    assert done.code == 0, done.err
    assert file_digests(tmp_path / "two") == file_digests(tmp_path / "one")


@pytest.mark.long
def test_the_command(drawn: SmallStore, tmp_path: Path, own_folder: None) -> None:
    done = run_cli(
        "bake", "--tickets", drawn.store, "--out", tmp_path / "b", "--num-views", 2, "--json", "--workers", 0
    )
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert (said["baked"], said["num_views"], said["num_baked"]) == (str(tmp_path / "b"), 2, 25)
    assert said["ticket_digest"] == drawn.manifest.digest
    assert "baking 72 views: about " in done.err
    done = run_cli("bake", "--tickets", drawn.store, "--out", tmp_path / "b", "--overwrite", "--workers", 0)
    assert done.code == 0, done.err
    assert "25 of 49 patches of 36 images in 3 view(s), " in done.out
    assert f"next: dataltt train --baked {tmp_path / 'b'}" in done.out
    done = run_cli("bake", "--tickets", drawn.store, "--out", tmp_path / "j", "--encoding", "jpeg")
    assert done.code == 1
    assert "--encoding jpeg: patches of 4 px are not whole blocks of 8" in done.err


@pytest.mark.long
def test_a_disk_without_room(drawn: SmallStore, disk: Disk, tmp_path: Path, fixed_time: None) -> None:
    out = disk.folder / "baked"
    if disk.is_mounted:
        said = r"will take about 442 kB, and its disk has .* free; make room"
        with disk.with_room_for(100_000), pytest.raises(DiskError, match=said):
            bake_of(drawn, out)
        assert not out.exists()
    # Others fill the disk meanwhile: what an earlier bake is taken to have written takes no room in truth.
    (out / "parts").mkdir(parents=True)
    (out / "view-000").mkdir()
    with (out / "view-000" / "old.tar").open("wb") as file:
        file.truncate(1 << 20)
    with disk.with_room_for(200_000 if disk.is_mounted else 20_000), pytest.raises(DiskError, match=FULL):
        bake_of(drawn, out)
    assert not (out / "baked.json").exists()
    assert not list(out.rglob("*.tmp*"))
    bake_of(drawn, out)
    bake_of(drawn, tmp_path / "baked")
    assert file_digests(out) == file_digests(tmp_path / "baked")


def test_what_cannot_be_baked(small: SmallStore, drawn: SmallStore, tmp_path: Path) -> None:
    with pytest.raises(TicketMismatchError, match="holds the centre view, which training mirrors"):
        bake_of(small, tmp_path / "b")
    with pytest.raises(OptionError, match=r"`num_views=4`: .* holds 3"):
        bake_of(drawn, tmp_path / "b", num_views=4)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    with pytest.raises(OutputExistsError, match="exists and is not a baked folder"):
        bake_of(drawn, tmp_path / "full", overwrite=True)
    assert (tmp_path / "full" / "notes").read_text() == "mine"


@pytest.mark.long
def test_verify_and_inspect_know_it(drawn: SmallStore, tmp_path: Path, own_folder: None) -> None:
    out = tmp_path / "baked"
    bake_of(drawn, out, "kept")
    assert [(c.name, c.ok) for c in verify_baked(out)] == [
        ("baked.json", True),
        ("sizes and SHA-256 of all files", True),
        ("samples", True),
    ]
    done = run_cli("verify", out, "--json")
    assert (done.code, json.loads(done.out)["ok"]) == (0, True)
    done = run_cli("inspect", out)
    assert done.code == 0, done.err
    for text in (
        "25 of 49 (kept), of which the ticket keeps 25",
        "3 of 3; replay",
        "36 of train",
        drawn.manifest.digest,
    ):
        assert text in done.out
    assert json.loads(run_cli("inspect", out, "--json").out)["num_baked"] == 25
    done = run_cli("verify", out, "--shards", drawn.shards)
    assert (done.code, "--shards:" in done.err) == (1, True)
    for command in (("view", out), ("train", "--tickets", out)):
        done = run_cli(*command)
        assert done.code == 1
        assert "is a baked folder, not a ticket store: it is for dataltt train --baked" in done.err
    path = out / "view-002" / "train-000001.tar"
    content = bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(content)
    done = run_cli("verify", out)
    assert done.code == 1
    assert f"FAILED sizes and SHA-256 of all files: {path} is not the file that was written; copy it again" in done.out
    path.unlink()
    assert "cannot be read (No such file or directory)" in run_cli("verify", out).out


def test_verify_reads_every_sample(drawn: SmallStore, tmp_path: Path) -> None:
    out = tmp_path / "baked"
    bake_of(drawn, out, "kept")
    path = out / "view-001" / "train-000001.tar"
    content = path.read_bytes().replace(b"/00013.", b"/00099.")
    path.write_bytes(content)
    document = json.loads((out / "baked.json").read_text())
    document["shards"][1]["files"][1]["sha256"] = hashlib.sha256(content).hexdigest()
    del document["checksum"]
    (out / "baked.json").write_text(json.dumps({**document, "checksum": checksum_of(document)}))
    *_, last = verify_baked(out)
    assert (last.name, last.ok) == ("samples", False)
    assert last.detail == f"{path} has other samples than the views before it"
