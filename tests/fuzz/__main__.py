"""Runs the fuzzing tests again and again for some time: python -m tests.fuzz SECONDS."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time

from .changes import EXAMPLES_VARIABLE


def main(seconds: float) -> int:
    """Runs them under other seeds until the time is over or one fails; returns the exit code."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        seed = random.SystemRandom().randrange(1 << 32)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "tests/fuzz", f"--hypothesis-seed={seed}"]
        print(*command, flush=True)
        code = subprocess.run(command, env={EXAMPLES_VARIABLE: "400", **os.environ}, check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
