"""A path that exists is that path, before it is any pattern, and is printed as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataltt.artifacts_schema import TicketStore
from dataltt.artifacts_schema.writing.commit import commit
from dataltt.stages.data.shards import absolute_spec, resolve_shards

from ..helpers import MODEL, fashion_samples, run_cli, save_selector_weights
from ..schema_helpers import make_part, make_spec, make_store, write_parts

pytestmark = pytest.mark.usefixtures("own_folder")

NAMES = [
    "[1]",
    "{a}",
    "{a,b}",
    "a b",
    " a ",
    "50%",
    "%20",
    "#1",
    "ünï-日本",
    "a?b",
    "a*b",
    "a\\b",
    "it's",
    '"q"',
    "a:b",
]
NAMES += ["pipe:true", "https:x", "~", "$HOME", "-", "e\u0301", "x;y", "(z)", "!1", "~a", "a&b", "{", "]["]


@pytest.mark.parametrize("name", NAMES)
def test_shards_of_odd_names(name: str) -> None:
    """As a file, as a folder, as the working directory, alone and in a pattern."""
    folder = Path.cwd() / name
    folder.mkdir()
    for file in (f"{name}.tar", "t-0.tar", "t-1.tar"):
        (folder / file).touch()
    (Path.cwd() / f"{name}.tar").touch()
    for spec in (f"{name}.tar", f"{folder}.tar", f"{folder}/{name}.tar"):
        assert [s.url for s in resolve_shards(spec)] == [spec]
        assert resolve_shards(spec)[0].name == f"{name}.tar"
    both = [f"{folder}/t-0.tar", f"{folder}/t-1.tar"]
    for pattern in ("t-*.tar", "t-{0..1}.tar", "t-[01].tar", "t-?.tar"):
        assert [s.url for s in resolve_shards(f"{folder}/{pattern}")] == both
        assert [s.name for s in resolve_shards(f"{folder}/{pattern}")] == ["t-0.tar", "t-1.tar"]


@pytest.mark.parametrize("name", [n for n in NAMES if "/" not in n])
def test_shards_are_found_from_another_folder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a store notes them, in whose working directory nothing is a pattern."""
    folder = Path.cwd() / name / "shards"
    folder.mkdir(parents=True)
    for file in ("t-0.tar", "t-1.tar"):
        (folder / file).touch()
    monkeypatch.chdir(folder.parent)
    typed = ("shards/t-*.tar", "./shards/t-{0..1}.tar", "shards/../shards/t-[01].tar", "*/t-?.tar")
    specs = [absolute_spec(spec) for spec in typed]
    single = absolute_spec("shards/t-1.tar")
    monkeypatch.chdir("/")
    for spec in specs:
        assert [s.url for s in resolve_shards(spec)] == [f"{folder}/t-0.tar", f"{folder}/t-1.tar"]
    assert [s.url for s in resolve_shards(single)] == [single] == [f"{folder}/t-1.tar"]


def test_an_ordinary_spec_is_noted_as_it_was() -> None:
    here = Path.cwd()
    assert absolute_spec("t-{0..1}.tar") == f"{here}/t-{{0..1}}.tar"
    assert absolute_spec("../x/*.tar") == f"{here.parent}/x/*.tar"
    assert absolute_spec("https://lab.org/t-{0..1}.tar") == "https://lab.org/t-{0..1}.tar"


@pytest.mark.long
@pytest.mark.parametrize("name", ["[1] {a,b} 50%#ü ", "s3:x it's"])
def test_every_command_takes_odd_paths(name: str, tmp_path: Path) -> None:
    root = tmp_path / name
    for i, sample in enumerate(fashion_samples(14)):
        path = root / "source" / f"{name}{i % 2}" / f"{name}{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.image)
    shards, store, run = root / "shards", root / f"{name}.zarr", root / "run"

    def call(*args: object) -> str:
        result = run_cli(*args)
        assert result.code == 0, result.err
        return result.out + result.err

    assert f"{shards}/{name}-000000.tar" in call("pack", root / "source", shards, "--name", name)
    spec = shards / f"{name}-000000.tar"
    runtime = ("--device", "cpu", "--workers", 0)

    weights = save_selector_weights(root / "weights .safetensors")
    said = call(
        *("select", "--model", MODEL, "--checkpoint", weights, "--shards", spec, "--ratio", 0.5, "--out", store),
        *runtime,
    )
    assert f"next: dataltt train --tickets {store}" in said
    opened = TicketStore.open(store)
    assert opened.shard_names == [f"{name}-000000.tar"]
    assert sorted(opened.read_keys(range(14)))[0].startswith(f"{name}0/{name}".replace(".", "_"))
    said = call("train", "--tickets", store, "--out", run, "--batch-size", 4, "--max-steps", 1, *runtime)
    assert f"{run}: step 1, epoch 0" in said
    assert str(store) in call("inspect", store)
    assert "FAILED" not in call("verify", store, "--shards", spec)
    for place in (root / f"{name} far", root / f"{name}.zip"):
        assert str(place) in call("push", store, place)
        call("pull", place, root / f"{name} near of {place.suffix}.zarr")


@pytest.mark.parametrize(("end", "begin"), [("\n", ""), ("\r\n", ""), ("\r\n", "\ufeff")])
def test_lists_of_keys_with_any_line_ends(tmp_path: Path, end: str, begin: str) -> None:

    made = make_store(tmp_path)
    wanted = [made.keys[i] for i in (7, 2, 5)]
    keys = tmp_path / "keys [1].txt"
    keys.write_bytes((begin + end.join(wanted) + end).encode())
    result = run_cli("store", "subset", made.path, "--keys", keys, "--out", tmp_path / "three.zarr")
    assert result.code == 0, result.err
    assert list(TicketStore.open(tmp_path / "three.zarr")) == sorted(wanted)


def test_a_shard_of_a_store_is_that_shard(tmp_path: Path) -> None:

    names = ("[1].tar", "1.tar", "{a,b}.tar", "a.tar")
    spec = make_spec(shards=names)
    write_parts(tmp_path / "s.zarr", [make_part(spec, i, 2) for i in range(4)])
    commit(tmp_path / "s.zarr", spec)
    for name in names:
        out = tmp_path / "one.zarr"
        result = run_cli("store", "subset", tmp_path / "s.zarr", "--shards", name, "--out", out, "--overwrite")
        assert result.code == 0, result.err
        assert TicketStore.open(out).shard_names == [name]
