"""The command line: quick help, JSON that parses, and one sentence with an exit code for whatever goes wrong."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from dataltt.artifacts_schema import TicketStore
from dataltt.artifacts_schema.summary import kept_share
from PIL import Image

from ..helpers import (
    MODEL,
    NUM_PATCHES,
    CliResult,
    Sample,
    SmallStore,
    fashion_samples,
    file_digests,
    make_shards,
    run_cli,
    run_cli_process,
    run_process,
    tar_bytes,
)
from ..schema_helpers import edit_manifest

pytestmark = pytest.mark.usefixtures("own_folder")

_COMMANDS = ("pack", "select", "train", "eval", "inspect", "verify", "demo", "bench")
_COMMANDS += ("fit-selector", "label", "quality", "fidelity", "study", "weight-lottery", "view")
_COMMANDS += ("store merge", "store subset", "store thin", "store diff")
_COMMANDS += ("push", "pull", "card")


def _check_sentence(result: CliResult, *parts: str) -> None:
    """One sentence on standard error, nothing on standard output, and a failure."""
    assert result.code == 1, result
    assert result.out == ""
    assert "Traceback" not in result.err
    said = [line for line in result.err.splitlines() if line.startswith("dataltt: ")]
    assert len(said) == 1, result.err
    assert result.err.rstrip().endswith(said[0])
    for part in parts:
        assert part in said[0]


def _select(small: SmallStore, out: Path, *options: object, shards: str | None = None) -> CliResult:
    return run_cli(
        *("select", "--model", MODEL, "--checkpoint", small.weights, "--shards", shards or small.shards),
        *("--out", out, "--device", "cpu", "--workers", 0, *(options or ("--ratio", 0.5))),
    )


def _train(out: Path, *options: object) -> CliResult:
    return run_cli("train", "--out", out, "--device", "cpu", "--workers", 0, "--batch-size", 6, *options)


# Help

_HELP_WITHOUT_TORCH = """
import io, sys
from contextlib import redirect_stdout
from dataltt.pipeline.cli import app

for args in (["--help"], *([*c.split(), "--help"] for c in sys.argv[1].split(","))):
    text = io.StringIO()
    with redirect_stdout(text):
        try:
            app(args)
        except SystemExit as stop:
            assert not stop.code, args
    assert text.getvalue(), args
heavy = {"torch", "timm", "torchvision", "zarr", "pyarrow", "webdataset", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
print("light")
"""


def test_help_imports_nothing_heavy() -> None:
    result = run_process([sys.executable, "-c", _HELP_WITHOUT_TORCH, ",".join(_COMMANDS)])
    assert (result.code, result.out) == (0, "light\n"), result.err


def test_help_lists_the_commands() -> None:
    result = run_cli("--help")
    assert result.code == 0
    assert all(f" {command.split()[0]} " in result.out for command in _COMMANDS)
    assert run_cli("-h").out == result.out


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_command_has_an_example(command: str) -> None:
    result = run_cli(*command.split(), "--help")
    assert result.code == 0
    assert "Example" in result.out
    assert f"dataltt {command}" in result.out


@pytest.mark.parametrize("args", [("nonsense",), ("select", "--nonsense"), ("select",), ("bench", "nonsense")])
def test_calls_that_are_not_understood(args: tuple[str, ...]) -> None:
    result = run_cli(*args)
    assert result.code == 2
    assert "Traceback" not in result.err
    assert "Usage" in result.err


# In a process of its own


@pytest.mark.long
def test_a_whole_call_in_its_own_process(small: SmallStore, tmp_path: Path) -> None:
    arguments = ("--device", "cpu", "--workers", 0, "--ratio", 0.5, "--json")
    result = run_cli_process(
        *("select", "--model", MODEL, "--checkpoint", small.weights, "--shards", small.shards),
        *("--out", tmp_path / "s.zarr", *arguments),
    )
    assert result.code == 0, result.err
    assert json.loads(result.out)["num_images"] == 36
    assert TicketStore.open(str(tmp_path / "s.zarr")).manifest.num_keep == 25


def test_select_says_that_images_have_no_label(small: SmallStore, tmp_path: Path) -> None:
    samples = [replace(s, label=None) if i == 1 else s for i, s in enumerate(fashion_samples(2))]
    shards = make_shards(tmp_path / "shards", (2,), samples)
    result = run_cli(
        *("select", "--model", MODEL, "--checkpoint", small.weights, "--shards", shards, "--ratio", 0.5),
        *("--workers", 0, "--device", "cpu", "--out", tmp_path / "s.zarr"),
    )
    assert result.code == 0, result.err
    assert "next: dataltt train" not in result.out
    assert "1 of 2 images have no label (.cls), the first of them 'train/00001'; training refuses them" in result.err
    _check_sentence(
        run_cli("train", "--tickets", tmp_path / "s.zarr", "--out", tmp_path / "run", "--workers", 0),
        "train-000000.tar: sample 'train/00001' has no .cls, and training needs its label",
    )


@pytest.mark.long
def test_an_error_in_its_own_process(tmp_path: Path) -> None:
    result = run_cli_process("select", "--model", MODEL, "--ratio", 0.5, "--shards", tmp_path / "none-*.tar")
    _check_sentence(result, "no shard matches", "none-*.tar")


# pack


def _tree(root: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(fashion_samples(1, first=i)[0].image)
    return root


def test_pack_json(tmp_path: Path) -> None:
    source = _tree(tmp_path / "source", "cat/a.png", "cat/b.png", "dog/c.png")
    result = run_cli("pack", source, tmp_path / "out", "--max-count", 2, "--name", "val", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out) == {
        "shards": [str(tmp_path / "out" / f"val-{i:06d}.tar") for i in range(2)],
        "num_samples": 3,
        "num_classes": 2,
        "left_out": {},
    }


def test_pack_for_people(tmp_path: Path) -> None:
    source = _tree(tmp_path / "source", "cat/a.png", "dog/c.png")
    result = run_cli("pack", source, tmp_path / "out")
    assert result.code == 0
    assert "2 images of 2 classes in 1 shard" in result.out
    assert "left out" not in result.err
    _tree(source, "cat/b.bmp", "cat/c.bmp", ".hidden/d.png")
    result = run_cli("pack", source, tmp_path / "other")
    assert result.code == 0
    assert "left out: 2 .bmp, 1 hidden folder\n" in result.err


def test_the_ways_out_that_pack_names(tmp_path: Path) -> None:
    """A list of classes that a second tree lacks one of, and shards whose keys have dots: as the messages say."""
    train, val = _tree(tmp_path / "train", "a/0.png", "b/0.png"), _tree(tmp_path / "val", "b/1.png")
    shards = tmp_path / "shards"
    assert run_cli("pack", train, shards).code == 0
    refused = run_cli("pack", val, shards, "--name", "val")
    _check_sentence(refused, f"number them as it does: --classes {shards / 'classes.json'}")
    assert run_cli("pack", val, shards, "--name", "val", "--classes", shards / "classes.json").code == 0
    (tmp_path / "d.tar").write_bytes(tar_bytes([("1.1.png", fashion_samples(1)[0].image), ("1.1.cls", b"0")]))
    result = run_cli("pack", "--from-shards", "--key-from", "last-dot", tmp_path / "d.tar", tmp_path / "new", "--json")
    assert json.loads(result.out)["num_samples"] == 1
    _check_sentence(run_cli("pack", train, tmp_path / "x", "--prefix-keys"), "give --from-shards")
    _check_sentence(
        run_cli("pack", tmp_path / "d.tar", tmp_path / "x", "--from-shards", "--classes", shards), "--classes numbers"
    )


def test_pack_errors(tmp_path: Path) -> None:
    _check_sentence(run_cli("pack", tmp_path / "gone", tmp_path / "out"), "is not a folder", "gone")
    _check_sentence(run_cli("pack", _tree(tmp_path / "flat", "a.png"), tmp_path / "out"), "no images in class folders")
    twice = _tree(tmp_path / "twice", "cat/a.png", "cat/a.jpg")
    _check_sentence(run_cli("pack", twice, tmp_path / "out"), "'cat/a' occurs in")
    source = _tree(tmp_path / "source", "cat/a.png")
    assert run_cli("pack", source, tmp_path / "out").code == 0
    _check_sentence(run_cli("pack", source, tmp_path / "out"), "train-000000.tar exists")


def test_pack_from_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the refusal is put in."""
    source = _tree(tmp_path / "source", "cat/a.png")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    _check_sentence(run_cli("pack", source, tmp_path / "out"), "Permission denied", "a.png")


# select


def test_select_for_people(small: SmallStore, tmp_path: Path) -> None:
    result = _select(small, tmp_path / "s.zarr")
    assert result.code == 0
    assert "25 of 49 patches (51.0%) of 36 images" in result.out
    assert f"dataltt train --tickets {tmp_path / 's.zarr'}" in result.out


def test_select_says_what_it_skipped(small: SmallStore, tmp_path: Path) -> None:
    samples = [replace(s, image=s.image[:60]) if i == 1 else s for i, s in enumerate(fashion_samples(4))]
    shards = make_shards(tmp_path / "shards", (4,), samples)
    result = _select(small, tmp_path / "s.zarr", "--ratio", 0.5, "--on-bad-image", "skip", shards=shards)
    assert result.code == 0
    assert "1 image(s) could not be decoded" in result.err


def test_shards_that_do_not_exist(small: SmallStore, tmp_path: Path) -> None:
    _check_sentence(
        _select(small, tmp_path / "s.zarr", shards=f"{tmp_path}/none-*.tar"), "no shard matches", "none-*.tar"
    )
    _check_sentence(
        _select(small, tmp_path / "s.zarr", shards=small.shards.replace("*", "00000{0..7}")), "train-000003.tar"
    )
    _check_sentence(_select(small, tmp_path / "s.zarr", shards=f"{tmp_path}/t-{{0..2.tar"), "t-{0..2.tar")


def test_no_shards_given(small: SmallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    call = ("select", "--model", MODEL, "--checkpoint", small.weights, "--ratio", 0.5, "--device", "cpu")
    _check_sentence(run_cli(*call), "which shards?", "DATALTT_SHARDS", "dataltt.toml")
    Path("dataltt.toml").write_text('[data]\nshards = "of-file-*.tar"\n')
    _check_sentence(run_cli(*call), "no shard matches", "of-file-*.tar")
    monkeypatch.setenv("DATALTT_SHARDS", "of-variable-*.tar")
    _check_sentence(run_cli(*call), "no shard matches", "of-variable-*.tar")
    _check_sentence(run_cli(*call, "--shards", "of-option-*.tar"), "no shard matches", "of-option-*.tar")
    monkeypatch.delenv("DATALTT_SHARDS")
    Path("dataltt.toml").write_text("[data\n")
    _check_sentence(run_cli(*call), "dataltt.toml is not valid TOML")


def test_a_truncated_tar(small: SmallStore, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", (4, 4), fashion_samples(8))
    path = tmp_path / "shards" / "train-000001.tar"
    path.write_bytes(path.read_bytes()[:2500])
    _check_sentence(_select(small, tmp_path / "s.zarr", shards=shards), str(path))


def test_an_undecodable_image(small: SmallStore, tmp_path: Path) -> None:
    samples = [*fashion_samples(3), Sample(key="odd/one", image=b"<html>", label=0)]
    shards = make_shards(tmp_path / "shards", (4,), samples)
    result = _select(small, tmp_path / "s.zarr", shards=shards)
    _check_sentence(result, "train-000000.tar", "'odd/one'", "--on-bad-image skip")


def test_duplicate_keys(small: SmallStore, tmp_path: Path) -> None:
    samples = fashion_samples(4)
    across = make_shards(tmp_path / "across", (4, 1), [*samples, samples[0]])
    _check_sentence(_select(small, tmp_path / "s.zarr", shards=across), "'train/00000'", "train-000001.tar")
    within = make_shards(tmp_path / "within", (5,), [*samples, samples[0]])
    _check_sentence(_select(small, tmp_path / "t.zarr", shards=within), "'train/00000' occurs twice in")


@pytest.mark.parametrize("options", [(), ("--ratio", 0.5, "--keep-rate", 0.8)])
def test_both_or_neither_dial(small: SmallStore, tmp_path: Path, options: tuple[object, ...]) -> None:
    result = _select(small, tmp_path / "s.zarr", *(options or ("--ranks",)))
    _check_sentence(result, "exactly one of --ratio", "--keep-rate")
    assert not (tmp_path / "s.zarr.parts").exists()


@pytest.mark.parametrize("option", ["--ratio", "--keep-rate"])
@pytest.mark.parametrize("value", ["0", "1.5", "-0.1", "nan"])
def test_dials_outside_their_range(small: SmallStore, tmp_path: Path, option: str, value: str) -> None:
    said = "should be a finite number" if value == "nan" else "outside (0, 1]"
    _check_sentence(_select(small, tmp_path / "s.zarr", f"{option}={value}"), option, said)


@pytest.mark.parametrize(
    ("model", "part"),
    [("vit_wee_patch16_reg1_gap_256", "no CLS token"), ("resnet18", "not a plain ViT"), ("deit_q", "neither an alias")],
)
def test_models_that_cannot_select(small: SmallStore, tmp_path: Path, model: str, part: str) -> None:
    weights = tmp_path / "w.safetensors"
    shutil.copy(small.weights, weights)
    result = run_cli(
        *("select", "--model", model, "--checkpoint", weights, "--shards", small.shards, "--ratio", 0.5),
        *("--out", tmp_path / "s.zarr", "--device", "cpu", "--workers", 0),
    )
    _check_sentence(result, model, part)


@pytest.mark.parametrize("blocks", ["", "3,x", "5,3", "40"])
def test_drop_blocks_that_cannot_be_meant(small: SmallStore, tmp_path: Path, blocks: str) -> None:
    _check_sentence(_select(small, tmp_path / "s.zarr", "--ratio", 0.5, f"--drop-blocks={blocks}"), "drop")


def test_an_output_that_exists(small: SmallStore) -> None:
    before = file_digests(small.path)
    _check_sentence(_select(small, small.path), str(small.path), "--overwrite")
    assert file_digests(small.path) == before


def test_a_checkpoint_that_is_not_there(small: SmallStore, tmp_path: Path) -> None:
    call = ("select", "--model", MODEL, "--shards", small.shards, "--ratio", 0.5, "--out", tmp_path / "s.zarr")
    _check_sentence(run_cli(*call, "--device", "cpu", "--checkpoint", tmp_path / "gone.pth"), "gone.pth")
    _check_sentence(run_cli(*call, "--device", "cpu", "--checkpoint", tmp_path), str(tmp_path))


# train, eval


def test_train_and_eval(small: SmallStore, tmp_path: Path) -> None:
    options = ("--tickets", small.store, "--epochs", 1, "--log-steps", 2)
    result = _train(tmp_path / "run", *options, "--val-shards", small.shards, "--val-tickets", small.store, "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert (report["step"], report["epoch"], report["protocol"]) == (6, 1, "ticket")
    assert report["validation"]["num_samples"] == 36
    assert "1 epoch" in result.err or "epoch 1/1" in result.err

    for test in ("ticket", "random", "dense"):
        result = run_cli(
            *("eval", "--checkpoint", tmp_path / "run", "--test", test, "--shards", small.shards),
            *("--tickets", small.store, "--device", "cpu", "--workers", 0, "--json"),
        )
        assert result.code == 0, result.err
        found = json.loads(result.out)
        assert (found["test"], found["num_samples"], found["num_skipped"]) == (test, 36, 0)
        if test == "ticket":
            assert found["top1"] == report["validation"]["top1"]

    people = run_cli(
        *("eval", "--checkpoint", tmp_path / "run", "--test", "dense", "--shards", small.shards),
        *("--device", "cpu", "--workers", 0),
    )
    assert "on 36 images" in people.out


def test_train_for_people(small: SmallStore, tmp_path: Path) -> None:
    result = _train(tmp_path / "run", "--tickets", small.store, "--max-steps", 1)
    assert result.code == 0
    assert result.out == f"{tmp_path / 'run'}: step 1, epoch 0\n"
    assert "25 of 49 patches" in result.err


def test_another_grid(small: SmallStore, tmp_path: Path) -> None:
    result = _train(tmp_path / "run", "--tickets", small.store, "--model", "deit_t")
    _check_sentence(result, small.store, "7×7 patches", "14×14 patches")
    assert not (tmp_path / "run").exists()


def test_tickets_for_other_images(small: SmallStore, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", (12,), fashion_samples(12, first=300), name="other")
    result = _train(tmp_path / "run", "--tickets", small.store, "--shards", shards)
    _check_sentence(result, "other-000000.tar", "has no ticket", "0 of 12 samples", "give the shards that it was made")
    make_shards(tmp_path / "shards", (13,), [*fashion_samples(12, first=300), small.samples[0]], name="other")
    result = _train(tmp_path / "run", "--tickets", small.store, "--shards", shards)
    _check_sentence(result, "1 of 13 samples have tickets", "12 of other-000000.tar", "--on-missing-ticket skip")
    changed = [replace(s, image=s.image + b"\0") for s in small.samples[:12]]
    shards = make_shards(tmp_path / "changed", (12,), changed)
    result = _train(tmp_path / "another", "--tickets", small.store, "--shards", shards)
    _check_sentence(result, "train-000000.tar", "is not the one that its ticket", "--on-changed-image allow")


def test_wrong_combinations(small: SmallStore, tmp_path: Path) -> None:
    out = tmp_path / "run"
    _check_sentence(_train(out), "--control ticket needs --tickets")
    _check_sentence(_train(out, "--control", "dense"), "--shards")
    _check_sentence(_train(out, "--tickets", small.store, "--val-shards", small.shards), "--val-tickets")
    _check_sentence(_train(out, "--tickets", small.store, "--resume"), "--resume")
    _check_sentence(_train(out, "--tickets", tmp_path / "gone.zarr"), "there is no ticket store", "dataltt select")
    assert not out.exists()
    (out / "something").mkdir(parents=True)
    _check_sentence(_train(out, "--tickets", small.store), f"{out} exists")


def test_eval_errors(small: SmallStore, tmp_path: Path) -> None:
    call = ("eval", "--shards", small.shards, "--device", "cpu", "--workers", 0)
    _check_sentence(run_cli(*call, "--test", "ticket", "--checkpoint", small.weights), "--tickets")
    _check_sentence(run_cli(*call, "--test", "dense", "--checkpoint", small.weights), "--model")
    _check_sentence(run_cli(*call, "--test", "dense", "--checkpoint", tmp_path), "there are no weights")


# inspect


def test_inspect_json(small: SmallStore) -> None:
    result = run_cli("inspect", small.store, "--json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert document["manifest"] == small.manifest.to_json()
    share = document["kept_share"]
    assert [len(row) for row in share] == [7] * 7
    assert sum(sum(row) for row in share) == pytest.approx(25)
    assert document["bytes_per_image"]["tickets"] > 0
    assert document["bytes_per_image"].keys() == {
        *("tickets", "ranks", "labels", "digests", "keys/data", "keys/offsets"),
        *("shards/data", "shards/offsets", "shards/rows"),
    }


def test_inspect_for_people(small: SmallStore) -> None:
    result = run_cli("inspect", small.store)
    assert result.code == 0
    assert f"25 of {NUM_PATCHES} patches (51.0%), 1 view(s), with ranks" in result.out
    assert "39 after block 1, 31 after block 3, 25 after block 5" in result.out
    assert "7×7 patches of 4 px" in result.out


def test_inspect_puts_numbers_to_the_right_and_shows_the_scale(small: SmallStore) -> None:
    result = run_cli("inspect", small.store)
    lines = result.out.splitlines()
    table = lines[lines.index(next(line for line in lines if line.startswith("array "))) :][:10]
    ends = [{match.end() for match in re.finditer(r"\S+", line.replace("all arrays", "all_arrays"))} for line in table]
    assert len(set.intersection(*ends)) == 2  # both columns of numbers, and their headers, end together
    share = kept_share(TicketStore.open(small.store))
    (bar,) = [line for line in lines if re.fullmatch(r"\d+% +\d+%", line)]
    assert bar.split() == [f"{share.min():.0%}", f"{share.max():.0%}"]


def test_inspect_prints_names_as_they_are(small: SmallStore, tmp_path: Path) -> None:
    path = Path(shutil.copytree(small.path, tmp_path / "s.zarr"))
    edit_manifest(path, lambda manifest: manifest["dataset"].update(name="[/red][bold]x"))
    result = run_cli("inspect", path)
    assert result.code == 0, result.err
    assert "36 of [/red][bold]x (" in result.out


@pytest.mark.parametrize("with_images", [True, False])
def test_inspect_writes_a_picture(small: SmallStore, tmp_path: Path, with_images: bool) -> None:
    png = tmp_path / "tickets.png"
    options = ("--shards", small.shards, "--samples", 5) if with_images else ()
    result = run_cli("inspect", small.store, "--png", png, *options)
    assert result.code == 0, result.err
    assert str(png) in result.out
    with Image.open(png) as image:
        image.load()
        assert image.format == "PNG"
        assert image.width > 300
        assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 20


def test_inspect_errors(small: SmallStore, tmp_path: Path) -> None:
    _check_sentence(run_cli("inspect", tmp_path / "gone.zarr"), "there is no ticket store")
    _check_sentence(run_cli("inspect", small.store, "--shards", small.shards), "--png")
    _check_sentence(run_cli("inspect", small.store, "--png", tmp_path / "gone" / "x.png"), "there is no folder")
    (tmp_path / "gone.zarr.parts").mkdir()
    _check_sentence(run_cli("inspect", tmp_path / "gone.zarr"), "is not finished")


def test_an_unknown_store_version(small: SmallStore, tmp_path: Path) -> None:
    path = Path(shutil.copytree(small.path, tmp_path / "s.zarr"))
    edit_manifest(path, lambda manifest: manifest.update(schema_version="3.0"))
    for result in (run_cli("inspect", path), _train(tmp_path / "run", "--tickets", path)):
        _check_sentence(result, "schema_version", "'3.0'", "reads 1.x and 2.x")
    result = run_cli("verify", path)
    assert result.code == 1
    assert "FAILED" in result.out
    assert "'3.0'" in result.out


# verify


def test_verify_a_good_store(small: SmallStore) -> None:
    result = run_cli("verify", small.store, "--shards", small.shards)
    assert result.code == 0, result
    assert "FAILED" not in result.out
    assert "36 images in 3 shard(s)" in result.out
    result = run_cli("verify", small.store, "--json")
    document = json.loads(result.out)
    assert (result.code, document["ok"]) == (0, True)
    assert all(check["ok"] for check in document["checks"])
    assert {check["name"] for check in document["checks"]} >= {"object digests", "tickets", "keys", "ranks"}


@pytest.mark.parametrize("array", ["tickets", "ranks", "keys/data", "labels", "digests", "shards/rows"])
def test_verify_a_damaged_store(small: SmallStore, tmp_path: Path, array: str) -> None:
    path = Path(shutil.copytree(small.path, tmp_path / "s.zarr"))
    victim = next(p for p in sorted((path / array).rglob("*")) if p.is_file() and p.name != "zarr.json")
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 0x10
    victim.write_bytes(content)
    result = run_cli("verify", path, "--json")
    assert result.code == 1
    assert "Traceback" not in result.err
    document = json.loads(result.out)
    assert document["ok"] is False
    assert any(not check["ok"] for check in document["checks"])
    people = run_cli("verify", path, "--shards", small.shards)
    assert people.code == 1
    assert "FAILED" in people.out
    assert "not compared" in people.out


def test_verify_against_other_shards(small: SmallStore, tmp_path: Path) -> None:
    fewer = make_shards(tmp_path / "fewer", (12, 11), small.samples[:23])
    result = run_cli("verify", small.store, "--shards", fewer)
    assert result.code == 1
    assert "train-000001.tar: 1 of 12 tickets have no image in the shards, such as that of 'train/00023'" in result.out
    changed = [replace(s, image=s.image + b"\0") if i == 20 else s for i, s in enumerate(small.samples)]
    result = run_cli(
        "verify", small.store, "--shards", make_shards(tmp_path / "changed", (12, 12, 12), changed), "--json"
    )
    assert result.code == 1
    check = json.loads(result.out)["checks"][-1]
    assert (check["name"], check["ok"]) == ("shards", False)
    assert "'train/00020'" in check["detail"]


def test_verify_what_is_not_there(small: SmallStore, tmp_path: Path) -> None:
    result = run_cli("verify", tmp_path / "gone.zarr")
    assert result.code == 1
    assert "there is no ticket store" in result.out
    result = run_cli("verify", small.store, "--shards", tmp_path / "none-*.tar")
    assert result.code == 1
    assert "no shard matches" in result.out


def test_a_tar_that_is_a_store_of_nothing(small: SmallStore, tmp_path: Path) -> None:
    (tmp_path / "t-000000.tar").write_bytes(tar_bytes([]))
    result = _select(small, tmp_path / "s.zarr", shards=str(tmp_path / "t-*.tar"))
    _check_sentence(result, "no image in 1 shard")


# demo


def test_demo_leaves_other_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    _check_sentence(run_cli("demo", "--out", tmp_path / "mine"), "mine exists")
    _check_sentence(run_cli("demo", "--out", tmp_path / "mine", "--overwrite"), "mine exists")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("arguments", "spelled"),
    [
        (("train", "--lr", 1, "--lr", 2), "--lr"),
        (("train", "--lr=1", "--lr", 1), "--lr"),
        (("train", "--resume", "--no-resume"), "--resume/--no-resume"),
        (("verify", "s.zarr", "--shards", "a.tar", "--shards", "b.tar"), "--shards"),
        (("inspect", "s.zarr", "--json", "--json"), "--json"),
        (("train", "--config", "a.toml", "--config", "b.toml"), "--config"),
    ],
)
def test_an_option_that_is_given_twice(arguments: tuple[object, ...], spelled: str) -> None:
    result = run_cli(*arguments)
    assert (result.code, result.out) == (1, "")
    assert result.err == f"dataltt: {spelled} is given 2 times, and one value counts; give it once\n"


def test_training_on_half_of_a_store_by_other_keys(small: SmallStore, tmp_path: Path) -> None:
    """What is said, written down, and the same numbers as by the store's own keys."""
    half = [*small.samples[:18], *fashion_samples(18, first=500)]
    others = [replace(s, key=f"elsewhere/{i}") for i, s in enumerate(half)]
    losses = []
    for name, samples in (("own", half), ("other", others)):
        shards = make_shards(tmp_path / name, (9, 9, 9, 9), samples, name=name)
        options = (
            "--tickets",
            small.store,
            "--shards",
            shards,
            "--on-missing-ticket",
            "skip",
            "--log-steps",
            1,
            "--epochs",
            2,
        )
        result = _train(tmp_path / f"run-{name}", *options)
        assert result.code == 0, result.err
        assert f"18 of 36 samples have tickets, without are 9 of {name}-000002.tar, 9 of {name}-0" in result.err
        assert "18 sample(s) without a ticket were left out, as asked" in result.err
        record = json.loads((tmp_path / f"run-{name}" / "config.json").read_text())
        assert record["samples"] == {
            "in_shards": 36,
            "with_tickets": 18,
            "joined_by_digest": 18 if name == "other" else 0,
            "shards_without_tickets": [f"{name}-000002.tar", f"{name}-000003.tar"],
        }
        lines = (tmp_path / f"run-{name}" / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert "18 samples joined by their images' digests: the shards have other keys" in result.err
    assert losses[0] == losses[1] != []
