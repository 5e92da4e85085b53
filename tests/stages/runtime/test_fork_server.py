"""Loader processes that begin when their trainer is gone, and a command that is interrupted before it is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_START = """
import multiprocessing
from dataltt.stages.data.loader import _fork_server

class Sent:
    def __reduce__(self):
        return ({error}, ("taken away",) if {error} is not open else ("/there/is/no/such/file",))

if __name__ == "__main__":
    process = _fork_server().Process(target=print, args=(Sent(),))
    process.start()
    process.join()
    assert process.exitcode != 0
"""


@pytest.mark.slow
@pytest.mark.parametrize(("error", "is_said"), [("open", False), ("int", True)])
def test_what_is_gone_before_a_process_begins_is_not_its_own_to_say(tmp_path: Path, error: str, is_said: bool) -> None:
    script = tmp_path / "start.py"
    script.write_text(_START.format(error=error))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert ("Traceback" in done.stderr) == is_said
    assert ("invalid literal for int()" in done.stderr) == is_said
    assert is_said or done.stderr == ""


def test_a_command_that_is_interrupted_while_it_imports_says_one_sentence() -> None:
    code = """
import sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "dataltt.pipeline.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
from dataltt.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (130, "dataltt: interrupted before it began\n")
