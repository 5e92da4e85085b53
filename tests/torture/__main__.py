"""Tortures all that writes and all that was written: python -m tests.torture [SEED] [--quick] [--json FILE]."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from .flips import flip_run, flip_stores
from .kills import Killer
from .outcome import Outcome
from .races import race
from .victims import QUICK_VICTIMS, VICTIMS, Inputs

_ROOT = Path(__file__).parents[2]
_DISK_TESTS = ("tests/artifacts_schema/test_disk.py", "tests/pipeline/test_disk.py")
_PREPARE = "from tests.torture.prepare import prepare; import sys; prepare(sys.argv[1])"


def prepared(folder: Path) -> Inputs:
    """What commands work on, made by a process of its own: this one must open no store."""
    subprocess.run([sys.executable, "-c", _PREPARE, str(folder)], check=True, cwd=_ROOT)
    return Inputs(
        folder=folder,
        shards=str(folder / "made" / "shards" / "train-*.tar"),
        weights=folder / "made" / "selector.safetensors",
        store=folder / "made" / "store.zarr",
        parts=tuple(folder / name for name in ("part-0.zarr", "part-1.zarr", "part-2.zarr")),
        images=folder / "images",
    )


def torture(inputs: Inputs, seed: int, *, is_quick: bool, say: Callable[[str], None]) -> Iterator[Outcome]:
    """Does all of it; if it is to be quick, a thirtieth, and of the slowest victims none."""
    from . import warm  # noqa: F401

    def times(number: int) -> int:
        return max(1, number // 30) if is_quick else number

    for victim in QUICK_VICTIMS if is_quick else VICTIMS:
        yield Killer(victim, inputs, inputs.folder / "victim", seed, say).run(times(20))
    stores = [inputs.store, inputs.folder / "thinned.zarr"]
    yield flip_stores(stores, times(1600), seed, say)
    train = next(victim for victim in VICTIMS if victim.name == "train")
    yield flip_run(train, inputs, inputs.folder / "flipped", times(500), seed, say)
    for name in ("select", "train", "store merge"):
        victim = next(victim for victim in VICTIMS if victim.name == name)
        yield race(victim, inputs, inputs.folder / "raced", times(40), seed, say)


def fill_disks() -> Outcome:
    """Runs the tests of full disks: each kind of write, with every number of free pages from none to enough."""
    outcome = Outcome(kind="kinds of write on full and read-only disks (tests)")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *_DISK_TESTS]
    said = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False).stdout
    counts = dict(reversed(found) for found in re.findall(r"(\d+) (passed|failed|errors?|skipped)", said))
    outcome.number = int(counts.get("passed", 0))
    outcome.wrong = sum(int(counts.get(name, 0)) for name in ("failed", "error", "errors"))
    if "skipped" in counts:
        outcome.notes.append(f"{counts['skipped']} skipped: no disk could be mounted")
    return outcome.end()


def main() -> int:
    """Returns the exit code: 0 if nothing was lost, wrong or left over."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture")
    parser.add_argument("seed", nargs="?", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a thirtieth of it, without disks")
    parser.add_argument("--json", type=Path, help="write the table there too")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="dataltt-torture-") as folder:
        inputs = prepared(Path(folder))
        for outcome in torture(inputs, options.seed, is_quick=options.quick, say=lambda text: print(text, flush=True)):
            outcomes.append(outcome)
            for note in outcome.notes:
                print(f"  {note}", flush=True)
    if not options.quick:
        outcomes.append(fill_disks())
    print(f"\n| seed {options.seed} | number | lost | wrong | left over | seconds |\n| -- | -- | -- | -- | -- | -- |")
    for o in outcomes:
        print(f"| {o.kind} | {o.number} | {o.lost} | {o.wrong} | {o.left_over} | {o.seconds:.0f} |")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1) + "\n")
    return 0 if all(o.is_good for o in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
