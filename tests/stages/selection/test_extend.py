"""Extended stores: the same as one selection of all shards, with only the new ones selected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dataltt.artifacts_schema import (
    DuplicateKeyError,
    IncompletePartsError,
    Manifest,
    OptionError,
    OutputExistsError,
    TicketStore,
)
from dataltt.artifacts_schema.combining.assembly import Target
from dataltt.artifacts_schema.combining.subset import Wanted, subset_store
from dataltt.artifacts_schema.combining.thin import thin_store
from dataltt.artifacts_schema.verify import verify_store
from dataltt.artifacts_schema.writing.parts import Part
from dataltt.stages.selection import select as select_module
from dataltt.stages.selection.select import select

from ...helpers import (
    MODEL,
    Sample,
    fashion_samples,
    file_digests,
    make_shards,
    run_cli,
    save_selector_weights,
    select_config,
    write_shard,
)

pytestmark = pytest.mark.usefixtures("fixed_time")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_selector_weights(tmp_path_factory.mktemp("weights") / "selector.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 5, none, 7 and 4 images; the third has a file that is no image."""
    folder = tmp_path_factory.mktemp("shards")
    samples = fashion_samples(16)
    samples[8] = Sample(key="broken", image=b"no image", label=1)
    make_shards(folder, (5, 0, 7, 4), samples)
    return folder


def _select(shards: str, weights: Path, out: Path, **changes: Any) -> Manifest:
    manifest = select(select_config(shards, weights, out, **{"ranks": True, "on_bad_image": "skip", **changes}))
    assert manifest is not None
    return manifest


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, folder: Path, weights: Path) -> Path:
    """A store of the first two shards."""
    out = tmp_path_factory.mktemp("base") / "base.zarr"
    _select(str(folder / "train-00000[01].tar"), weights, out)
    return out


@pytest.fixture(scope="module")
def all_shards(folder: Path) -> str:
    return str(folder / "train-*.tar")


@pytest.mark.long
@pytest.mark.parametrize("changes", [{}, {"workers": 2, "batch_size": 3}], ids=["as before", "otherwise dealt"])
def test_it_is_a_selection_of_all_shards(
    base: Path, all_shards: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    whole = _select(all_shards, weights, tmp_path / "whole.zarr")
    written: list[str] = []
    write = select_module.write_part

    def noted(directory: Path, index: int, part: Part) -> None:
        written.append(part.shard)
        write(directory, index, part)

    monkeypatch.setattr(select_module, "write_part", noted)
    found = _select(all_shards, weights, tmp_path / "out.zarr", extend=str(base), **changes)
    assert sorted(written) == ["train-000002.tar", "train-000003.tar"]
    assert found.objects == whole.objects
    assert (found.skipped, found.dataset) == (whole.skipped, whole.dataset)
    assert [s.key for s in found.skipped] == ["broken"]
    assert found.parent == [{"ticket_digest": TicketStore.open(str(base)).manifest.digest, "operation": "extend"}]
    assert found.digest == whole.digest
    assert [c.name for c in verify_store(str(tmp_path / "out.zarr")) if not c.ok] == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.zarr", "whole.zarr"]


@pytest.mark.usefixtures("own_folder")
def test_on_the_command_line(base: Path, all_shards: str, weights: Path) -> None:
    options = ("select", "--model", MODEL, "--checkpoint", weights, "--ratio", 0.5, "--ranks", "--device", "cpu")
    result = run_cli(*options, "--workers", 0, "--on-bad-image", "skip", "--shards", all_shards, "--extend", base)
    assert result.code == 0, result.err
    assert result.out.startswith("store.zarr: 25 of 49 patches (51.0%) of 15 images")
    assert f"{base} has 2 shard(s); 2 more to select" in result.err
    refused = run_cli(*options, "--shards", all_shards, "--extend", "store.zarr", "--out", "x.zarr")
    assert (refused.code, refused.out) == (1, "")
    assert "has tickets for all 4 shard(s) that --shards names; there is nothing to select" in refused.err


def test_replayed_views(folder: Path, weights: Path, tmp_path: Path) -> None:
    views = {"augment": "deit", "num_views": 2, "seed": 3}
    whole = _select(str(folder / "train-00000[02].tar"), weights, tmp_path / "whole.zarr", **views)
    _select(str(folder / "train-000000.tar"), weights, tmp_path / "a.zarr", **views)
    found = _select(
        str(folder / "train-000002.tar"), weights, tmp_path / "out.zarr", extend=str(tmp_path / "a.zarr"), **views
    )
    assert found.objects == whole.objects


def test_a_store_may_be_replaced_by_its_extension(base: Path, all_shards: str, weights: Path, tmp_path: Path) -> None:
    first = str(Path(all_shards).parent / "train-000000.tar")
    _select(first, weights, tmp_path / "s.zarr")
    with pytest.raises(OutputExistsError):
        _select(all_shards, weights, tmp_path / "s.zarr", extend=str(tmp_path / "s.zarr"))
    found = _select(all_shards, weights, tmp_path / "s.zarr", extend=str(tmp_path / "s.zarr"), overwrite=True)
    assert found.num_images == 15
    assert [p.name for p in tmp_path.iterdir()] == ["s.zarr"]


def test_it_goes_on_where_it_stopped(
    base: Path, all_shards: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = select_module.write_part

    class StoppedError(Exception):
        pass

    def cut_off(directory: Path, index: int, part: Part) -> None:
        if index == 1:
            raise StoppedError
        write(directory, index, part)

    with monkeypatch.context() as patch:
        patch.setattr(select_module, "write_part", cut_off)
        with pytest.raises(StoppedError):
            _select(all_shards, weights, tmp_path / "out.zarr", extend=str(base))
    assert [p.name for p in tmp_path.iterdir()] == ["out.zarr.parts"]
    part = tmp_path / "out.zarr.parts" / "part-000000.parquet"
    before = part.stat().st_mtime_ns
    with pytest.raises(IncompletePartsError, match=r"parts of another selection \(it differs in extend"):
        _select(all_shards, weights, tmp_path / "out.zarr", extend=str(_part_of(base, tmp_path)))
    assert part.stat().st_mtime_ns == before
    found = _select(all_shards, weights, tmp_path / "out.zarr", extend=str(base))
    assert found.num_images == 15


def _part_of(base: Path, tmp_path: Path) -> Path:
    """A store of one kind with the base, of its first three images."""
    keys = list(TicketStore.open(str(base)))[:3]
    (tmp_path / "keys.txt").write_text("\n".join(keys))
    subset_store(base, Wanted(keys=tmp_path / "keys.txt"), Target(path=tmp_path / "few.zarr"))
    return tmp_path / "few.zarr"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ratio": 0.3}, "selector.ratio is 0.5 in the first and 0.3 in the second"),
        ({"ranks": False}, "has_ranks is True in the first and False in the second; the store has ranks, so give"),
        ({"precision": "bf16"}, "selector.precision is fp32 in the first and bf16"),
        ({"augment": "deit"}, "view.kind is center in the first and replay"),
        ({"num_views": 2}, "num_views is 1 in the first and 2"),
    ],
)
def test_a_selection_of_another_kind(
    base: Path, all_shards: str, weights: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(OptionError) as caught:
        _select(all_shards, weights, tmp_path / "out.zarr", extend=str(base), **changes)
    assert str(caught.value).startswith(f"{base} and this selection cannot be one store: ")
    assert said in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_other_weights(base: Path, all_shards: str, tmp_path: Path) -> None:
    other = save_selector_weights(tmp_path / "w.safetensors", seed=1)
    with pytest.raises(OptionError, match=r"selector\.weights_sha256 is [0-9a-f]{12}… in the first"):
        _select(all_shards, other, tmp_path / "out.zarr", extend=str(base))


def test_a_thinned_store(base: Path, all_shards: str, weights: Path, tmp_path: Path) -> None:
    thin_store(base, Target(path=tmp_path / "thin.zarr"), ratio=0.3)
    with pytest.raises(OptionError, match=r"thinned\.selected_num_keep is 25 in the first and None in the second"):
        _select(all_shards, weights, tmp_path / "out.zarr", extend=str(tmp_path / "thin.zarr"))


def test_shards_that_it_has_all(base: Path, folder: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"has tickets for all 2 shard\(s\) that `shards` names"):
        _select(str(folder / "train-00000[01].tar"), weights, tmp_path / "out.zarr", extend=str(base))


def test_an_image_that_it_has_already(base: Path, weights: Path, tmp_path: Path) -> None:
    again = write_shard(tmp_path / "shards" / "again.tar", fashion_samples(2, first=3))
    before = file_digests(base)
    with pytest.raises(DuplicateKeyError, match=r"'train/00003' occurs in train-000000\.tar and again\.tar"):
        _select(str(again), weights, tmp_path / "out.zarr", extend=str(base))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.zarr.parts", "shards"]
    assert file_digests(base) == before
