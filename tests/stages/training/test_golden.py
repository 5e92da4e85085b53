"""Tickets and losses are those of version 0.1.0, which wrote tests/data/golden.json: refactoring changes no number.

Tickets are compared exactly. Losses were the same bits on the machine that wrote them; other processors sum in other
orders, so here they agree to six digits.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from dataltt.artifacts_schema import TicketStore
from dataltt.stages.training.config import TrainConfig
from dataltt.stages.training.train import train

from ...helpers import SmallStore, make_store

pytestmark = pytest.mark.long

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[2] / "data" / "golden.json").read_text(encoding="utf-8"))
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "ticket": ("center", {}),
    "random": ("center", {"control": "random"}),
    "inverse, plain": ("center", {"control": "inverse", "mixup": 0.0, "cutmix": 0.0, "random_erasing": 0.0}),
    "warp, sgd": ("drawn", {"view_mode": "warp", "opt": "sgd", "clip_grad": 1.0}),
    "replay": ("drawn", {"seed": 3}),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SmallStore]:
    folder = tmp_path_factory.mktemp("golden")
    # Version 0.1.0 had Pillow alone.
    drawn = make_store(folder / "drawn", keep_rate=0.7, augment="deit", num_views=3, seed=5, decoder="pillow")
    return {"center": make_store(folder / "center", decoder="pillow"), "drawn": drawn}


@pytest.mark.parametrize("name", ["center", "drawn"])
def test_tickets_are_the_same(stores: dict[str, SmallStore], name: str) -> None:
    store, expected = TicketStore.open(stores[name].store), GOLDEN["stores"][name]
    rows = range(36)
    assert store.read_tickets(rows)[0, 0].tolist() == expected["first_ticket"]
    assert hashlib.sha256(store.read_tickets(rows).tobytes()).hexdigest() == expected["tickets_sha256"]
    assert hashlib.sha256(store.read_ranks(rows).tobytes()).hexdigest() == expected["ranks_sha256"]


def test_tickets_of_pictures_that_are_not_resized_are_the_same_by_torchvision(tmp_path: Path) -> None:
    made = make_store(tmp_path, decoder="torchvision")
    store, expected = TicketStore.open(made.store), GOLDEN["stores"]["center"]
    assert store.manifest.schema_version == "2.0"
    assert hashlib.sha256(store.read_tickets(range(36)).tobytes()).hexdigest() == expected["tickets_sha256"]
    assert hashlib.sha256(store.read_ranks(range(36)).tobytes()).hexdigest() == expected["ranks_sha256"]


@pytest.mark.parametrize("name", RUNS)
def test_losses_are_the_same(stores: dict[str, SmallStore], tmp_path: Path, name: str) -> None:
    store, changes = RUNS[name]
    plain = TrainConfig.of(tickets=stores[store].store, out=tmp_path / "run", epochs=2, batch_size=6, lr=0.05)
    train(plain.but(ema_decay=0.9, workers=0, device="cpu", log_steps=1, max_steps=4, **changes))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == pytest.approx(GOLDEN["losses"][name], rel=1e-6)
