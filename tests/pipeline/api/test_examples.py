"""docs/python.md and docs/examples do what they say."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from dataltt.stages.models.weights import load_vit

from ...helpers import MODEL, REPOSITORY, SmallStore, fashion_samples, make_shards, make_store, run_process

_PAGE = REPOSITORY / "docs" / "python.md"
_EXAMPLES = REPOSITORY / "docs" / "examples"
_NEEDS = re.compile(r"# needs: (\w+)\n")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a small `dataltt-demo` stands, as `dataltt demo` leaves it."""
    folder = tmp_path_factory.mktemp("beside")
    out = folder / "dataltt-demo"
    small: SmallStore = make_store(out, counts=(18, 18))
    make_shards(out / "shards", (6,), fashion_samples(6, split="test"), name="test")
    (out / "store.zarr").rename(out / "train.zarr")
    (out / "runs" / "dense").mkdir(parents=True)
    shutil.copy(small.weights, out / "runs" / "dense" / "best.safetensors")
    return folder


def _blocks() -> list[str]:
    return re.findall(r"(?ms)^```python\n(.*?)^```", _PAGE.read_text(encoding="utf-8"))


def _run_page(blocks: list[str]) -> dict[str, Any]:
    """Runs the blocks one after the other, in one namespace."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, str(_PAGE), "exec"), names)
    return names


def test_the_page_runs(demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(demo)
    blocks = _blocks()
    assert len(blocks) >= 8
    names = _run_page([b for b in blocks if not _NEEDS.match(b)])
    said = capsys.readouterr().out
    assert "36 images, train/00000 keeps 25 of 49 patches\n" in said
    assert "13 of 49 patches\n" in said
    assert "dataltt-demo/train.zarr has no ticket of key 'train/99999'; did you mean " in said
    assert names["found"].keep_indices.shape == (4, 25)
    assert names["found"].ranks.shape == (4, 49)
    assert names["found"].images.shape == (4, 1, 28, 28)
    assert len(names["joined"]) == 36


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("package", ["torchdata", "datasets"])
def test_the_blocks_that_need_more_run(demo: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    monkeypatch.chdir(demo)
    shutil.rmtree("quarter.zarr", ignore_errors=True)
    wanted = [b for b in _blocks() if not (found := _NEEDS.match(b)) or found[1] == package]
    names = _run_page(wanted)
    if package == "torchdata":
        assert len(names["rest"]) == 2
    else:
        assert len(names["joined"]) == 36


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "package"),
    [("plain_pytorch", "torch"), ("with_lightning", "lightning"), ("with_accelerate", "accelerate")],
)
def test_an_example_trains(demo: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    monkeypatch.chdir(demo)
    result = run_process(
        [sys.executable, _EXAMPLES / f"{name}.py", "dataltt-demo/train.zarr"], {"ACCELERATE_USE_CPU": "1"}
    )
    assert result.code == 0, result.err
    losses = [float(x) for x in re.findall(r"epoch \d: loss (\d+\.\d+)", result.out)]
    assert len(losses) == 2
    # Four steps of a network that starts at random: trained, but how well is a matter of luck.
    assert losses[0] != losses[1]
    assert max(losses) < 4
    weights = torch.load(f"{name}.pt", weights_only=True)
    assert weights["patch_embed.proj.weight"].shape == (192, 1, 4, 4)
    assert set(weights) == set(load_vit(MODEL, demo / "dataltt-demo" / "selector.safetensors").state_dict()) | {
        n for n in weights if n.startswith("blocks.")
    }
