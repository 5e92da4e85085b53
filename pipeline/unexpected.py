"""The last handler: whatever ends a command becomes one sentence and an exit code.

0    done
1    something that the user can mend; the sentence says how
2    a call that is not understood (click's)
70   a fault of dataltt's own; the sentence names a log with the traceback
75   SIGTERM asked for the end; what was done is saved, and the same command goes on
130  interrupted

With DATALTT_DEBUG=1 the traceback is shown, and no log is written.
"""

from __future__ import annotations

import datetime
import os
import platform
import sys
import tempfile
import traceback
from pathlib import Path

import typer

from .escaping import shown
from .messages import as_flags
from .said_once import say_once

DEBUG_VARIABLE = "DATALTT_DEBUG"
MENDABLE, FAULT = 1, 70  # 70: EX_SOFTWARE of sysexits.h
_LIBRARIES = ("dataltt", "torch", "torchvision", "timm", "numpy", "zarr", "pyarrow", "safetensors", "webdataset")
_MAX_CHARACTERS = 300


def end_by(error: Exception) -> int:
    """Says on standard error what ended a command; returns its exit code."""
    debugging = os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0")
    if debugging:
        traceback.print_exception(error)
    sentence = _sentence(error)
    if sentence is not None:
        say_once(f"dataltt: {shown(as_flags(sentence))}", _say)
        return MENDABLE
    report = "please report it"
    if not debugging:
        log = _write_log(error)
        where = f"what happened stands in {log}" if log else f"see what happened with {DEBUG_VARIABLE}=1"
        report = f"{where}; please report it with that"
    text = f"dataltt: a fault of dataltt's own ended this ({_named(error)}); {report} (docs/reliability.md says how)"
    typer.secho(shown(text), fg=typer.colors.RED, err=True)
    return FAULT


def _say(text: str) -> None:
    typer.secho(text, fg=typer.colors.RED, err=True)


def _sentence(error: Exception) -> str | None:
    """The sentence about what the user can mend; None if it is no such thing."""
    from ..artifacts_schema.errors import DatalttError
    from ..artifacts_schema.files import OF_WRITING, disk_error

    first = _first(error)
    if isinstance(first, DatalttError):
        return str(first)
    name = getattr(first, "filename", None)
    path = Path(os.fsdecode(name)) if isinstance(name, str | bytes) else Path("a file")
    if isinstance(first, PermissionError):
        return f"{path} may not be read or written by this user ({first.strerror}); have it permitted"
    if isinstance(first, OSError) and first.errno in OF_WRITING:
        return str(disk_error(first, path))
    if isinstance(first, MemoryError) or type(first).__name__ == "OutOfMemoryError":  # torch's, without its import
        return f"memory ran out ({_reason(first)}); lower `batch_size` or `workers`, or use a larger machine"
    return None


def _first(error: BaseException) -> BaseException:
    """The first error of a group, however deep; any other is itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _named(error: BaseException) -> str:
    first = _first(error)
    return f"{type(first).__name__}: {_reason(first)}"


def _reason(error: BaseException) -> str:
    """A line of an error's text. Torch makes whole tracebacks of its workers a text, whose last line says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return "without a reason"
    line = lines[-1 if "Traceback (most recent call last):" in str(error) else 0]
    return line if len(line) <= _MAX_CHARACTERS else f"{line[:_MAX_CHARACTERS]}…"


def _write_log(error: BaseException) -> Path | None:
    """Writes what happened into the working directory, else the folder of temporary files; None where neither takes it.

    It has the command, versions and the traceback; values of storage options are left out, since they may be secrets.
    """
    now = datetime.datetime.now()
    name = f"dataltt-error-{now:%Y%m%d-%H%M%S}-{os.getpid()}.log"
    text = "\n".join(
        [
            f"{now.isoformat(timespec='seconds')}  {' '.join(_command())}",
            f"Python {platform.python_version()}, {platform.platform()}",
            ", ".join(f"{library} {_version(library)}" for library in _LIBRARIES),
            "",
            "".join(traceback.format_exception(error)),
        ]
    )
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        try:
            with (folder / name).open("x", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            continue
        return folder / name
    return None


def _command() -> list[str]:
    """The command as it was given, without values of storage options."""
    words, previous = [], ""
    for word in sys.argv[1:]:
        option = "--storage-option"
        secret = word if previous == option else word.removeprefix(f"{option}=") if word.startswith(option) else ""
        words.append(word.replace(secret, f"{secret.split('=')[0]}=…") if "=" in secret else word)
        previous = word
    return ["dataltt", *words]


def _version(library: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
