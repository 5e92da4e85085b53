"""Small shards of real images, selectors with random weights, stores made from both, and the command line."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from dataltt.artifacts_schema import Manifest, TicketStore
from dataltt.artifacts_schema.tickets import unpack_mask
from dataltt.pipeline.cli import main
from dataltt.pipeline.demo.embedded import CLASSES, load_fashion_mnist
from dataltt.stages.models.registry import create_vit
from dataltt.stages.options import options_of
from dataltt.stages.runtime.reporting import SilentReporter
from dataltt.stages.selection.config import SelectConfig
from dataltt.stages.selection.select import select
from dataltt.stages.training.config import TrainConfig
from dataltt.stages.training.record import read_record, recorded_option
from PIL import Image
from safetensors.torch import save_file

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"

MODEL = "vit_fashion"
GRID = (7, 7)
NUM_PATCHES = 49


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Sample as it goes into a shard; label None for no .cls file."""

    key: str
    image: bytes
    label: int | None
    extension: str = "png"

    @property
    def members(self) -> list[tuple[str, bytes]]:
        """Names and contents of its files in a shard."""
        found = [(f"{self.key}.{self.extension}", self.image)]
        return found if self.label is None else [*found, (f"{self.key}.cls", str(self.label).encode())]


def encode(pixels: npt.NDArray[np.uint8], format: str = "PNG", **options: Any) -> bytes:
    """An image file of pixels [H, W] or [H, W, channels]."""
    return encode_image(Image.fromarray(pixels), format, **options)


def encode_image(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def recorded(run: Path) -> dict[str, Any]:
    """The options of training that a run resolved, by their plain names, with what else its record says."""
    record = read_record(run / "config.json")
    assert record is not None
    document = asdict(record)
    flat = {
        d.name: recorded_option(record, d.name) for d in options_of(TrainConfig) if d.option.on_resume != "unrecorded"
    }
    return {**document, **flat}


@functools.cache
def fashion(split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Embedded images [n, 28, 28] and labels [n] of a split."""
    return load_fashion_mnist(split)


def fashion_samples(count: int, *, first: int = 0, split: str = "train") -> list[Sample]:
    """Returns some of the embedded images, from number `first` on."""
    images, labels = fashion(split)
    numbers = range(first, first + count)
    return [Sample(key=f"{split}/{i:05d}", image=encode(images[i]), label=int(labels[i])) for i in numbers]


def tar_bytes(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A plain tar of named files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write_shard(path: Path, samples: Iterable[Sample]) -> Path:
    """Writes samples into a shard, with the standard library alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(member for sample in samples for member in sample.members))
    return path


def make_shards(folder: Path, counts: Sequence[int], samples: Sequence[Sample], *, name: str = "train") -> str:
    """Deals samples to shards of `counts` samples each, classes.json beside them; returns the glob of the shards."""
    left = iter(samples)
    for index, count in enumerate(counts):
        write_shard(folder / f"{name}-{index:06d}.tar", [next(left) for _ in range(count)])
    (folder / "classes.json").write_text(json.dumps({c: i for i, c in enumerate(CLASSES)}))
    return str(folder / f"{name}-*.tar")


def randomize(module: torch.nn.Module, seed: int = 0) -> None:
    """Random weights under which attention is far from uniform, so that orders have no near ties."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if name.rsplit(".")[-1] in ("cls_token", "pos_embed", "reg_token"):
                parameter.copy_(values)
            elif parameter.ndim > 1:
                parameter.copy_(values * parameter[0].numel() ** -0.5)
            elif name.endswith("bias"):
                parameter.copy_(0.2 * values)
            else:  # weights of norms, gains of LayerScale
                parameter.copy_(1 + 0.2 * values)


def save_selector_weights(path: Path, *, seed: int = 0) -> Path:
    """Random weights of the small model as a safetensors file."""
    vit = create_vit(MODEL)
    randomize(vit, seed)
    save_file(vit.state_dict(), path)
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallStore:
    """A store and what it was made from."""

    folder: Path
    shards: str
    weights: Path
    path: Path
    samples: tuple[Sample, ...]
    manifest: Manifest

    @property
    def store(self) -> str:
        """Path of the store, as text."""
        return str(self.path)

    @property
    def label_of(self) -> dict[str, int | None]:
        """Labels by key."""
        return {s.key: s.label for s in self.samples}

    def masks(self, view: int = 0) -> dict[str, npt.NDArray[np.bool_]]:
        """Kept patches bool [P] by key."""
        opened = TicketStore.open(self.store)
        rows = range(opened.manifest.num_images)
        masks = unpack_mask(opened.read_tickets(rows)[:, view], NUM_PATCHES)
        return dict(zip(opened.read_keys(rows), masks, strict=True))

    def ranks(self, view: int = 0) -> dict[str, npt.NDArray[np.integer]]:
        """Ranks [P] by key."""
        opened = TicketStore.open(self.store)
        rows = range(opened.manifest.num_images)
        return dict(zip(opened.read_keys(rows), opened.read_ranks(rows)[:, view], strict=True))


def select_config(shards: str, weights: Path, out: Path, **changes: Any) -> SelectConfig:
    """A quick selection of half the patches on the CPU."""
    defaults: dict[str, Any] = {"ratio": 0.5, "batch_size": 5, "workers": 0, "device": "cpu"}
    if "keep_rate" in changes or "budget" in changes:
        del defaults["ratio"]
    return SelectConfig.of(model=MODEL, shards=shards, checkpoint=weights, out=out, **{**defaults, **changes})


def make_store(
    folder: Path,
    *,
    counts: Sequence[int] = (12, 12, 12),
    samples: Sequence[Sample] | None = None,
    seed: int = 0,
    **changes: Any,
) -> SmallStore:
    """Shards, weights and a store below `folder`."""
    given = fashion_samples(sum(counts)) if samples is None else list(samples)
    shards = make_shards(folder / "shards", counts, given)
    weights = save_selector_weights(folder / "selector.safetensors", seed=seed)
    out = folder / "store.zarr"
    manifest = select(select_config(shards, weights, out, **{"ranks": True, **changes}))
    assert manifest is not None
    return SmallStore(folder=folder, shards=shards, weights=weights, path=out, samples=tuple(given), manifest=manifest)


def file_digests(root: Path) -> dict[str, str]:
    """SHA-256 of every file below a directory, by relative path."""
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


class Listener(SilentReporter):
    """Reporter that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        """Keeps it."""
        self.said.append(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class CliResult:
    """Outcome of a call of the command line."""

    code: int
    out: str
    err: str


@contextlib.contextmanager
def _arguments(args: Sequence[str]) -> Iterator[None]:
    before, hook = sys.argv, sys.excepthook
    sys.argv = ["dataltt", *args]
    try:
        yield
    finally:
        sys.argv, sys.excepthook = before, hook


def run_cli(*args: object) -> CliResult:
    """Runs the command line in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with _arguments([str(a) for a in args]), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return CliResult(code=code, out=out.getvalue(), err=err.getvalue())


_MAIN = "from dataltt.pipeline.cli import main; main()"


def run_process(command: Sequence[object], env: Mapping[str, str] | None = None) -> CliResult:
    """Runs a command to its end."""
    done = subprocess.run(
        [str(c) for c in command],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return CliResult(code=done.returncode, out=done.stdout, err=done.stderr)


def run_cli_process(*args: object, env: Mapping[str, str] | None = None) -> CliResult:
    """Runs the command line in a process of its own."""
    return run_process([sys.executable, "-c", _MAIN, *args], env)


def run_on_two_ranks(
    folder: Path, *args: object, env: Mapping[str, str] | None = None, script: Path | None = None
) -> CliResult:
    """Runs the command line (or a script that ends with it) in two processes under torchrun."""
    if script is None:
        script = folder / "run_dataltt.py"
        # Loader processes import it, and are not to begin the command once more.
        script.write_text('from dataltt.pipeline.cli import main\n\nif __name__ == "__main__":\n    main()\n')
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    return run_process([sys.executable, *torchrun, script, *args], {"OMP_NUM_THREADS": "1", **(env or {})})
