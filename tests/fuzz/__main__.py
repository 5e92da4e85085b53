"""Fuzzes for some time: python -m tests.fuzz SECONDS.

The tests run again and again under other seeds. Where atheris is installed, a third of the time is guided by coverage
instead, for the readers of documents and key buffers, which need no files.
"""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
import time

from .changes import EXAMPLES_VARIABLE

_GUIDED = ("test_manifests", "test_bytes_of_root_documents", "test_key_buffers")


def main(seconds: float) -> int:
    """Runs until the time is over or something fails; returns the exit code."""
    end = time.monotonic() + seconds
    if importlib.util.find_spec("atheris") is not None:
        for name in _GUIDED:
            arguments = [f"-max_total_time={int(seconds / 3 / len(_GUIDED))}", "-verbosity=0", "-print_final_stats=1"]
            code = _run([sys.executable, "-m", "tests.fuzz.guided", name, *arguments])
            if code:
                return code
    while time.monotonic() < end:
        seed = random.SystemRandom().randrange(1 << 32)
        code = _run([sys.executable, "-m", "pytest", "-q", "-x", "tests/fuzz", f"--hypothesis-seed={seed}"])
        if code:
            return code
    return 0


def _run(command: list[str]) -> int:
    print(*command, flush=True)
    return subprocess.run(command, env={EXAMPLES_VARIABLE: "400", **os.environ}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
