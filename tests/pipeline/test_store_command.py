"""The store commands: what they print, as text and JSON, and the sentences in which they refuse."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from dataltt.artifacts_schema import TicketStore, read_manifest
from dataltt.pipeline.cli import COMMANDS

from ..helpers import CliResult, run_cli
from ..schema_helpers import Made, make_store, read_everything

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture(scope="module")
def a(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_store(tmp_path_factory.mktemp("a"), 3, (4, 1, 6), name="a.zarr")


@pytest.fixture(scope="module")
def b(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Other tickets of the same images."""
    return make_store(tmp_path_factory.mktemp("b"), 3, (4, 1, 6), seed=1, name="b.zarr")


def _ok(*args: object) -> CliResult:
    result = run_cli("store", *args)
    assert result.code == 0, result.err
    return result


def _refused(*args: object) -> str:
    result = run_cli("store", *args)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("dataltt: ")
    assert result.err.count("\n") == 1
    return result.err


def test_a_store_is_cut_in_two_and_merged_again(a: Made) -> None:
    first = _ok("subset", a.path, "--shards", "shard-00[01].tar", "--out", "first.zarr")
    assert first.out == "first.zarr: 6 of 15 patches (40.0%), with ranks of 5 images in 2 shard(s)\n"
    _ok("subset", a.path, "--shards", "shard-002.tar", "--out", "second.zarr")
    merged = _ok("merge", "first.zarr", "second.zarr", "--out", "whole.zarr", "--json")
    document = json.loads(merged.out)
    assert (document["store"], document["num_images"], document["notes"]) == ("whole.zarr", 11, [])
    assert [p["operation"] for p in document["parent"]] == ["merge", "merge"]
    assert document["objects"] == a.manifest.objects
    shown = run_cli("inspect", "whole.zarr")
    digests = [TicketStore.open(n).manifest.digest[:12] for n in ("first.zarr", "second.zarr")]
    assert f"merge of {digests[0]}, merge of {digests[1]}" in shown.out


def test_keys_and_classes(a: Made) -> None:
    Path("keys.txt").write_text("\n".join(a.keys[:6]), encoding="utf-8")
    label = int(a.column("labels")[5])
    _ok("subset", a.path, "--keys", "keys.txt", "--classes", label, "--out", "one.zarr")
    assert read_everything(Path("one.zarr"))["keys"] == [a.keys[5]]


def test_a_thinned_store_says_so_wherever_it_is_shown(a: Made) -> None:
    said = "approximate: 3 patches, by rank, of the 6 that the selector kept"
    thin = _ok("thin", a.path, "--ratio", 0.2, "--no-ranks", "--out", "thin.zarr")
    assert thin.out == "thin.zarr: 3 of 15 patches (20.0%) of 11 images in 3 shard(s)\n"
    assert f"tickets are {said}" in thin.err
    assert f"no ranks; {said}" in run_cli("inspect", "thin.zarr").out
    assert f"thin.zarr ({said})" in _ok("diff", a.path, "thin.zarr").out
    assert json.loads(_ok("diff", a.path, "thin.zarr", "--json").out)["approximate"] == [None, said]
    document = json.loads(run_cli("inspect", "thin.zarr", "--json").out)
    assert document["manifest"]["thinned"] == {"selected_num_keep": 6}


def test_two_stores_are_compared(a: Made, b: Made) -> None:
    text = _ok("diff", a.path, b.path, "--png", "d.png").out
    document: Any = json.loads(_ok("diff", a.path, b.path, "--json").out)
    for name, value in (("images", "the same images"), ("selector", "the same"), ("views", "the same (1 per image)")):
        assert any(line.split()[0] == name and value in line for line in text.splitlines()), name
    assert f"{document['overlap']:.1%}; chance 40.0%" in text
    assert document["num_images"] == [11, 11, 11]
    assert len(document["examples"]) == 10
    assert document["examples"][0]["key"] in text
    assert [len(document["kept_both"]), len(document["kept_both"][0])] == [3, 5]
    assert "and 1 classes more" in text or len(document["by_class"]) <= 10
    assert Path("d.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_refused_is_said_in_a_sentence(a: Made, b: Made) -> None:
    assert "has another label in" in _refused("merge", a.path, b.path, "--out", "x.zarr")
    assert "merge takes two stores or more" in _refused("merge", a.path, "--out", "x.zarr")
    assert "there is no ticket store at none.zarr" in _refused("merge", a.path, "none.zarr", "--out", "x.zarr")
    assert "give --shards, --keys or --classes" in _refused("subset", a.path, "--out", "x.zarr")
    assert "thin it how? give a lower --ratio, or --no-ranks" in _refused("thin", a.path, "--out", "x.zarr")
    assert "--ratio 2 should be above 0 and at most 1" in _refused("thin", a.path, "--ratio", 2, "--out", "x.zarr")
    assert "--classes x should be whole numbers" in _refused("subset", a.path, "--classes", "x", "--out", "x.zarr")
    assert "--png none/d.png: there is no folder none" in _refused("diff", a.path, b.path, "--png", "none/d.png")
    assert not list(Path().iterdir())


def test_a_taken_place(a: Made) -> None:
    _ok("thin", a.path, "--ratio", 0.2, "--out", "x.zarr")
    assert "x.zarr exists; pass --overwrite" in _refused("thin", a.path, "--ratio", 0.1, "--out", "x.zarr")
    _ok("thin", a.path, "--ratio", 0.1, "--out", "x.zarr", "--overwrite")
    assert read_manifest("x.zarr").num_keep == 2


def test_a_file_of_options_has_tables_of_the_group(a: Made) -> None:
    Path("dataltt.toml").write_text('[store.thin]\nratio = 0.2\n\n[store.merge]\nout = "m.zarr"\n', encoding="utf-8")
    _ok("thin", a.path, "--out", "t.zarr")
    assert read_manifest("t.zarr").num_keep == 3
    printed = _ok("merge", a.path, "t.zarr", "--print-config").out
    config = tomllib.loads(printed)
    assert (config["stores"], config["out"], config["overwrite"]) == ([str(a.path), "t.zarr"], "m.zarr", False)
    assert 'out = "m.zarr"  # dataltt.toml' in printed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[store.mrege]\nout = 'x'", "there is no command 'store.mrege'; did you mean 'store merge'?"),
        ("store = 1", "store should hold tables, such as [store."),
        ("[store]\nthin = 1", "store.thin should be a table"),
        ("[store.thin]\nraito = 1", "[store.thin]: dataltt store thin has no option 'raito'; did you mean 'ratio'?"),
    ],
)
def test_a_file_of_options_that_is_wrong(a: Made, text: str, said: str) -> None:
    Path("dataltt.toml").write_text(text + "\n", encoding="utf-8")
    assert said in _refused("thin", a.path, "--ratio", 0.2, "--out", "x.zarr")


def test_the_group_lists_its_commands() -> None:
    listed = run_cli("store", "--help").out
    names = [name.split()[1] for commands in COMMANDS.values() for name in commands if name.startswith("store ")]
    assert names == ["merge", "subset", "thin", "diff"]
    assert all(f" {name} " in listed for name in names)
    assert run_cli("store", "nonsense").code == 2
