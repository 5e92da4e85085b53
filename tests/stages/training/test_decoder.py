"""The decoder of a run: its tickets' own, else the one that is asked for, else torchvision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataltt.artifacts_schema import OptionError, TicketStore
from dataltt.stages.analysis.sample_tickets import sample_tickets
from dataltt.stages.data.images import center_crop, decode_bytes, to_tensor
from dataltt.stages.data.loader import iterate
from dataltt.stages.data.stream_config import StreamPosition
from dataltt.stages.data.student_stream import SampleStream
from dataltt.stages.runtime.distributed import Process
from dataltt.stages.runtime.reporting import SilentReporter
from dataltt.stages.selection.select import select
from dataltt.stages.training.config import EvalConfig, TrainConfig
from dataltt.stages.training.evaluate import evaluate
from dataltt.stages.training.plan import RunPlan, plan_run
from dataltt.stages.training.train import train
from PIL import Image

from ...helpers import MODEL, Sample, SmallStore, encode_image, fashion, make_store, run_cli, select_config

_PROCESS = Process(rank=0, world_size=1, local_world_size=1, device=torch.device("cpu"))


def _samples() -> list[Sample]:
    """Grey JPEGs that must be resized, so that it shows who does it."""
    images = [Image.fromarray(p).resize((45, 40), Image.Resampling.BICUBIC) for p in fashion("train")[0][:12]]
    return [
        Sample(key=f"image-{i:02d}", image=encode_image(image, "JPEG", quality=95), label=i)
        for i, image in enumerate(images)
    ]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SmallStore]:
    folder = tmp_path_factory.mktemp("decoders")
    made = {
        name: make_store(folder / name, counts=(6, 6), samples=_samples(), decoder=name)
        for name in ("pillow", "torchvision")
    }
    assert {n: m.manifest.schema_version for n, m in made.items()} == {"pillow": "1.2", "torchvision": "2.0"}
    return made


def _config(made: SmallStore, out: Path = Path("nowhere"), **changes: Any) -> TrainConfig:
    plain = TrainConfig.of(shards=made.shards, model=MODEL, out=out, epochs=1, batch_size=6, num_classes=12)
    return plain.but(workers=0, device="cpu", view_mode="static", hflip=0.0, auto_augment="none", **changes)


def _plan(made: SmallStore, **changes: Any) -> RunPlan:
    return plan_run(_config(made, random_erasing=0.0, mixup=0.0, cutmix=0.0, **changes), _PROCESS, SilentReporter())


@pytest.mark.parametrize("name", ["pillow", "torchvision"])
def test_tickets_are_trained_on_by_their_own_decoder(stores: dict[str, SmallStore], name: Any) -> None:
    made = stores[name]
    plan = _plan(made, tickets=made.store)
    assert plan.config.views.decoder == name
    (first, _) = iterate(SampleStream(plan.stream, StreamPosition()), 0)
    for pixels, label in zip(first.images, first.labels.tolist(), strict=True):
        image = decode_bytes(made.samples[label].image, "L", name)
        assert torch.equal(pixels, to_tensor(center_crop(image, made.manifest.view, 28)))


def test_the_decoders_differ_on_pictures_that_are_resized(stores: dict[str, SmallStore]) -> None:
    found = [
        np.stack([np.asarray(each.image) for each in sample_tickets(made.store, made.shards, 6)]).astype(int)
        for made in stores.values()
    ]
    assert 0 < np.abs(found[0] - found[1]).max() <= 2
    assert stores["pillow"].manifest.digest != stores["torchvision"].manifest.digest


def test_another_decoder_than_the_tickets_is_refused(stores: dict[str, SmallStore]) -> None:
    made = stores["torchvision"]
    with pytest.raises(OptionError, match=r"`decoder='pillow'`: the tickets of .* torchvision decoded"):
        _plan(made, tickets=made.store, decoder="pillow")
    assert _plan(made, tickets=made.store, decoder="torchvision").stream.view == made.manifest.view


@pytest.mark.parametrize("asked", [None, "pillow", "torchvision"])
def test_without_tickets_it_is_the_one_that_is_asked_for(stores: dict[str, SmallStore], asked: Any) -> None:
    plan = _plan(stores["pillow"], control="dense", decoder=asked)
    assert plan.stream.view.decoder_name == plan.config.views.decoder == (asked or "torchvision")


def test_validation_shows_tickets_by_their_own_decoder(stores: dict[str, SmallStore]) -> None:
    made, other = stores["torchvision"], stores["pillow"]
    plan = _plan(made, tickets=made.store, val_shards=other.shards, val_tickets=other.store)
    assert plan.val_stream is not None
    assert plan.val_stream.view.decoder_name == "pillow"
    assert _plan(made, tickets=made.store, val_shards=other.shards, test="dense").val_stream.view.decoder_name == (
        "torchvision"
    )


def test_a_run_is_tested_by_its_own_decoder_or_another(stores: dict[str, SmallStore], tmp_path: Path) -> None:
    made = stores["pillow"]
    train(_config(made, tmp_path / "run", control="dense", decoder="pillow", max_steps=1))
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["resolved"]["views"]["decoder"] == "pillow"
    plain = EvalConfig.of(checkpoint=tmp_path / "run", shards=made.shards, test="dense", workers=0, device="cpu")
    own, pillow, other = (evaluate(plain.but(decoder=d)).loss for d in (None, "pillow", "torchvision"))
    assert own == pillow != other
    assert other == pytest.approx(own, rel=0.05)
    tickets = stores["torchvision"]
    with pytest.raises(OptionError, match="`decoder='pillow'`"):
        evaluate(plain.but(test="ticket", tickets=tickets.store, shards=tickets.shards, decoder="pillow"))
    with pytest.raises(OptionError, match="decoder was 'pillow' and is 'torchvision'"):
        train(_config(made, tmp_path / "run", control="dense", decoder="torchvision", resume=True))


@pytest.mark.parametrize("name", ["pillow", "torchvision"])
def test_a_store_is_extended_by_its_own_decoder(stores: dict[str, SmallStore], tmp_path: Path, name: Any) -> None:
    made = stores[name]
    first = made.shards.replace("*", "000000")
    base = select(select_config(first, made.weights, tmp_path / "base.zarr", decoder=name, ranks=True))
    assert base is not None
    config = select_config(made.shards, made.weights, tmp_path / "s.zarr", extend=str(tmp_path / "base.zarr"))
    extended = select(config.but(ranks=True))
    assert extended is not None
    assert extended.view == made.manifest.view
    stored = [TicketStore.open(str(p)).read_tickets(range(12)).tolist() for p in (tmp_path / "s.zarr", made.path)]
    assert stored[0] == stored[1]
    other = {"pillow": "torchvision", "torchvision": "pillow"}[name]
    with pytest.raises(OptionError, match=f"`decoder='{other}'`"):
        select(config.but(ranks=True, decoder=other, overwrite=True))


def test_stores_of_two_decoders_are_not_merged(stores: dict[str, SmallStore], tmp_path: Path) -> None:
    a, b = (made.store for made in stores.values())
    said = run_cli("store", "merge", a, b, "--out", tmp_path / "out.zarr")
    assert said.code != 0
    assert "view.decoder is pillow in the first and torchvision in the second" in " ".join(said.err.split())
