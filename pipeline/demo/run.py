"""The demo: both stages on embedded real images, in a few minutes on two cores, with the paper's comparison at the end.

A ViT of 64 dim, 6 blocks, 4 heads and 4-px patches on Fashion-MNIST; half the patches are kept by a cascade in blocks
1, 3 and 5 of the dense model itself. AdamW, a cosine after a fifth of warm-up, no augmentation.
"""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from ...artifacts_schema import OutputExistsError, read_manifest
from ...stages.data.packing import EncodedSample, write_shards
from ...stages.models.checkpoints import last_weights
from ...stages.options import EvalProtocol
from ...stages.runtime.reporting import Reporter
from ...stages.selection.config import SelectConfig
from ...stages.selection.select import select
from ...stages.training.config import EvalConfig, TrainConfig
from ...stages.training.eval_loop import Metrics
from ...stages.training.evaluate import evaluate
from ...stages.training.optimization import BASE_BATCH_SIZE
from ...stages.training.train import train
from ..reports.demo_report import DemoResult, DemoRow, write_report
from .embedded import CLASSES, load_fashion_mnist

MODEL = "vit_fashion"
EPOCHS = 4
BATCH_SIZE = 50
PEAK_LR = 1.5e-3
_MARKER = "dataltt-demo.json"


def run_demo(
    out: Path,
    *,
    ratio: float = 0.5,
    epochs: int = EPOCHS,
    num_train: int | None = None,
    num_test: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    reporter: Reporter,
) -> DemoResult:
    """Packs, trains dense (c), selects with it, trains on tickets (a), random subsets (b), smaller pictures; tests all.

    Everything it makes stands in `out`, where the same commands can be tried by hand.

    Args:
        num_train: train on the first so many images instead of all 10,000; `num_test` likewise of 2,000.

    Raises:
        OutputExistsError: `out` exists and was not made by the demo, or `overwrite` is not given.
    """
    started = time.perf_counter()
    _prepare(out, overwrite)
    num_train = pack_fashion(out / "shards", "train", num_train, reporter)
    num_test = pack_fashion(out / "shards", "test", num_test, reporter)
    shards, test_shards = str(out / "shards" / "train-*.tar"), str(out / "shards" / "test-*.tar")
    store, test_store = out / "train.zarr", out / "test.zarr"
    base = _dense_config(out, shards, test_shards, epochs, seed)
    reporter.heading("(c) dense: all patches")
    spent = {"dense": train(base, reporter).tflops}
    reporter.heading(f"selecting: the dense model keeps {ratio:.0%} of the patches of every image")
    for each, each_shards in ((store, shards), (test_store, test_shards)):
        weights = last_weights(out / "runs" / "dense")
        config = SelectConfig.of(model=MODEL, checkpoint=weights, shards=each_shards, out=each, ratio=ratio, ranks=True)
        select(config, reporter)
    pruned = base.but(tickets=str(store), val_tickets=str(test_store))
    reporter.heading("(a) ticket: the kept patches alone")
    spent["ticket"] = train(pruned.but(out=out / "runs" / "ticket", control="ticket"), reporter).tflops
    reporter.heading("(b) random: as many patches, drawn anew for every image and step")
    spent["random"] = train(pruned.but(out=out / "runs" / "random", control="random"), reporter).tflops
    reporter.heading("resize: whole pictures, made so small that they have as many patches")
    spent["resize"] = train(pruned.but(out=out / "runs" / "resize", control="resize"), reporter).tflops
    runs = {"(a)": "ticket", "(b)": "random", "(c)": "dense", "resize": "resize"}
    manifest = read_manifest(str(store))
    rows = list(_test_all(out, test_shards, str(test_store), seed, spent, reporter))
    result = DemoResult(
        rows=rows,
        num_keep=manifest.num_keep,
        num_patches=manifest.num_patches,
        ratio=ratio,
        epochs=epochs,
        seed=seed,
        seconds=time.perf_counter() - started,
        runs={k: str(out / "runs" / v) for k, v in runs.items()},
        report=str(out / "report.html"),
    )
    write_report(result, test_store=str(test_store), test_shards=test_shards, num_train=num_train, num_test=num_test)
    (out / _MARKER).write_text(json.dumps(asdict(result), indent=1) + "\n")
    return result


def demo_recipe(epochs: int, batch_size: int = BATCH_SIZE) -> TrainConfig:
    """Training options of the embedded images' students: DeiT's optimiser, no augmentation, centre views.

    The learning rate of a step is the same whatever the batch.
    """
    return TrainConfig.of(
        out=Path(),
        epochs=epochs,
        batch_size=batch_size,
        lr=PEAK_LR * BASE_BATCH_SIZE / batch_size,
        warmup_epochs=epochs / 5,
        smoothing=0.0,
        drop_path=0.0,
        view_mode="static",
        hflip=0.0,
        auto_augment="none",
        random_erasing=0.0,
        mixup=0.0,
        cutmix=0.0,
        ema_decay=0.0,
        shuffle_buffer=10_000,
        log_steps=20,
    )


def _dense_config(out: Path, shards: str, test_shards: str, epochs: int, seed: int) -> TrainConfig:
    """The run (c); the others differ from it in what they train on alone."""
    return demo_recipe(epochs).but(
        out=out / "runs" / "dense",
        shards=shards,
        val_shards=test_shards,
        model=MODEL,
        control="dense",
        seed=seed,
    )


def _prepare(out: Path, overwrite: bool) -> None:
    if out.exists():
        if not overwrite or not (out / _MARKER).exists():
            way_out = "pass --overwrite to run the demo anew" if (out / _MARKER).exists() else "choose another --out"
            raise OutputExistsError(f"{out} exists; {way_out}")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / _MARKER).write_text("{}\n")


def pack_fashion(folder: Path, split: str, count: int | None, reporter: Reporter) -> int:
    """Packs the first images of a split as PNGs; returns how many."""
    images, labels = load_fashion_mnist(split)
    images, labels = images[:count], labels[:count]

    def samples() -> Iterator[EncodedSample]:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            yield EncodedSample(key=f"{split}/{i:05d}", image=buffer.getvalue(), extension="png", label=int(label))

    return write_shards(
        samples(), folder, name=split, max_count=1000, classes=CLASSES, total=len(images), reporter=reporter
    ).num_samples


def _test_all(
    out: Path, shards: str, store: str, seed: int, spent: Mapping[str, float | None], reporter: Reporter
) -> Iterator[DemoRow]:
    """The paper's comparison first, then the same students under the other protocols."""
    reporter.heading("testing")
    plan: list[tuple[str, str, EvalProtocol]] = [
        ("(c)", "dense", "dense"),
        ("(a)", "ticket", "ticket"),
        ("(b)", "random", "ticket"),
        ("", "resize", "resize"),
        ("", "random", "random"),
        ("", "random", "dense"),
        ("", "dense", "ticket"),
    ]
    for label, trained_on, tested_on in plan:
        metrics: Metrics = evaluate(
            EvalConfig.of(
                checkpoint=last_weights(out / "runs" / trained_on),
                shards=shards,
                tickets=store,
                test=tested_on,
                seed=seed,
            ),
            reporter,
        )
        yield DemoRow(
            label=label,
            trained_on=trained_on,
            tested_on=tested_on,
            top1=metrics.top1,
            loss=metrics.loss,
            tflops=spent[trained_on],
        )
