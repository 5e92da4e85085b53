"""Checkpoints of students: weights as safetensors under timm's names, training state apart from them.

runs/NAME/
  classes.json                names of the classes, if those were listed beside the shards
  best.safetensors            the weights that did best under the validation protocol asked for
  checkpoints/latest          the name of the newest complete checkpoint below
  checkpoints/step-00000042/  model.safetensors, ema.safetensors, training.pt and its XXH3-128, training.xxh3

What a weights file belongs to (model, view, step, …) stands in its own safetensors header.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import xxhash
from pydantic import Field, TypeAdapter, ValidationError
from safetensors.torch import save_file

from ...artifacts_schema import CheckpointError, View
from ...artifacts_schema.files import read_regular, replacing, write_atomically, writing
from ..options import PatchInput
from .families import create_student
from .resampling import resampled, resampled_in_words
from .student import Student
from .weight_bounds import check_stored, sketched
from .weight_digest import HEADER, header_of, with_digest
from .weights import check_weights, load_weights, num_classes_in, read_weights

_TRAINING_DIGEST = "training.xxh3"
_MAX_POINTER_BYTES = 4096
_CHECKPOINT = re.compile(r"step-\d{1,20}")
SELECTOR_FILE = "selector.json"  # in the run of a fitted selector: what it was fitted for
# What training.pt holds.
TRAINING_STATE = frozenset({"step", "steps_per_epoch", "optimizer", "scheduler", "best_top1", "num_skipped"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """Origin of a student's weights. `protocol` and `top1` say by which validation, and how well, they did; `is_ema`,
    whether they are averaged ones.
    """

    model: str
    num_classes: Annotated[int, Field(ge=1)]
    image_px: Annotated[int, Field(ge=1, le=65_536)]
    view: View
    control: str
    num_keep: Annotated[int, Field(ge=1)]
    step: Annotated[int, Field(ge=0)]
    epoch: Annotated[int, Field(ge=0)]
    protocol: str | None = None
    top1: float | None = None
    swin_input: PatchInput | None = None
    is_ema: bool = False


_ADAPTER = TypeAdapter(CheckpointInfo)


def save_weights(path: Path, weights: Mapping[str, torch.Tensor], info: CheckpointInfo) -> None:
    """Writes weights, what they are of, and the digest of both, whole or not at all.

    Raises:
        DiskError: they cannot be written.
    """
    # Clones: safetensors refuses tensors that share memory.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    needs = sum(tensor.nbytes for tensor in tensors.values())
    with writing(path, needs=needs), replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask says; safetensors gives files to their owner alone
        save_file(tensors, temporary, metadata=with_digest(asdict(info), tensors))
        temporary.chmod(stat.S_IMODE(mode))


def read_info(path: Path) -> CheckpointInfo | None:
    """Reads what a weights file says it is of; None if it is not one that dataltt wrote.

    Raises:
        CheckpointError: the header is damaged.
    """
    if path.suffix != ".safetensors":
        return None
    header = header_of(path).get(HEADER)
    try:
        return None if header is None else _ADAPTER.validate_json(header)
    except ValidationError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} cannot be read ({reason}); train it again, or fetch it again") from error


def find_weights(path: Path, *, ema: bool = False) -> Path:
    """The weights file that a path means: itself, or of a run its best (with `ema`: its newest average) weights.

    Raises:
        CheckpointError: there is none.
    """
    if path.is_file():
        return path
    latest = latest_checkpoint(path)
    if ema:
        if latest is not None and (latest / "ema.safetensors").exists():
            return latest / "ema.safetensors"
        raise CheckpointError(f"{path} has no averaged weights (ema.safetensors); train with `ema_decay` above 0")
    if (path / "best.safetensors").exists():
        return path / "best.safetensors"
    for candidate in (path, *([latest] if latest else [])):
        if (candidate / "model.safetensors").exists():
            return candidate / "model.safetensors"
    raise CheckpointError(f"there are no weights at {path}; give a .safetensors or .pth file, or a run's folder")


class LoadedStudent(NamedTuple):
    """A student, what its weights say of themselves (None for foreign ones), the file they came from, and in words how
    they were resampled (empty if they were not).
    """

    student: Student
    info: CheckpointInfo | None
    file: Path
    resampling: str


def load_student(
    path: Path,
    *,
    model: str | None = None,
    num_keep: int | None = None,
    ema: bool = False,
    image_px: int | None = None,
) -> LoadedStudent:
    """A student from a weights file or a run's folder; foreign weights need `model`.

    Args:
        image_px: side of the images that it is to take; None for those it was trained on, or the network's own.

    Raises:
        CheckpointError, ModelError
    """
    file = find_weights(path, ema=ema)
    info = read_info(file)
    name = model or (info.model if info else None)
    if name is None:
        raise CheckpointError(f"{file} does not say which model it is of; pass `model`")
    weights = read_weights(file)
    if info is not None and num_classes_in(weights) not in (None, info.num_classes):
        raise CheckpointError(
            f"{file} says that it has {info.num_classes} classes, and its head has {num_classes_in(weights)}; train it "
            "again, or fetch it again"
        )

    def make() -> Student:
        return create_student(
            name,
            num_keep=info.num_keep if info else num_keep,
            patch_input=info.swin_input if info else None,
            image_px=image_px or (info.image_px if info else None),
            num_classes=info.num_classes if info else num_classes_in(weights),
        )

    sketch = sketched(make).net
    fitting = resampled(sketch, weights)
    check_weights(sketch, fitting, str(file), name)  # before memory is taken that the file only names
    student = make()
    load_weights(student.net, fitting, str(file), name)
    return LoadedStudent(student=student, info=info, file=file, resampling=resampled_in_words(sketch, weights))


def _folder(run: Path) -> Path:
    return run / "checkpoints"


def latest_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint of a run."""
    pointer = _folder(run) / "latest"
    try:
        name = read_regular(pointer, _MAX_POINTER_BYTES).decode().strip()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{pointer} cannot be read ({error}); start the run anew with another `out`") from None
    path = _folder(run) / name
    if _CHECKPOINT.fullmatch(name) and not path.is_dir():
        path = _aside(path)  # a process was killed while it exchanged one for another of the same step
    if not _CHECKPOINT.fullmatch(name) or not path.is_dir():
        raise CheckpointError(f"{pointer} names a checkpoint that is not there; start the run anew with another `out`")
    return path


def last_weights(run: Path) -> Path:
    """The weights that a run ended with, not its best: nothing is chosen on the images that are tested on.

    Raises:
        CheckpointError: it has no checkpoint.
    """
    checkpoint = latest_checkpoint(run)
    if checkpoint is None:
        raise CheckpointError(f"{run} has no checkpoint; train it first")
    return checkpoint / "model.safetensors"


def save_checkpoint(
    run: Path,
    info: CheckpointInfo,
    weights: Mapping[str, torch.Tensor],
    ema_weights: Mapping[str, torch.Tensor] | None,
    training: Mapping[str, Any],
    *,
    keep: int = 1,
) -> None:
    """Writes a checkpoint beside those there, points to it, and only then removes all but the newest `keep`.

    Raises:
        DiskError: it cannot be written; the older ones stay.
    """
    folder = _folder(run)
    name = f"step-{info.step:08d}"
    temporary = folder / f".{name}.tmp-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with writing(folder / name):
            temporary.mkdir(parents=True)
            # A file, since torch forgets why it could not write one that it opened by itself.
            with (temporary / "training.pt").open("wb") as file:
                torch.save(dict(training), file)
            (temporary / _TRAINING_DIGEST).write_text(_file_digest(temporary / "training.pt"))
            save_weights(temporary / "model.safetensors", weights, info)
            if ema_weights is not None:
                save_weights(temporary / "ema.safetensors", ema_weights, info)
            if (folder / name).exists():  # saved at this very step before
                shutil.rmtree(_aside(folder / name), ignore_errors=True)
                os.rename(folder / name, _aside(folder / name))
            os.rename(temporary, folder / name)
        write_atomically(folder / "latest", f"{name}\n".encode())
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for half in folder.glob(".step-*"):
        shutil.rmtree(half)
    whole = sorted((path for path in folder.glob("step-*") if path.name != name), key=lambda path: int(path.name[5:]))
    for old in whole[: len(whole) - (keep - 1)]:
        shutil.rmtree(old)


def _file_digest(path: Path) -> str:
    found = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _aside(checkpoint: Path) -> Path:
    return checkpoint.with_name(f".{checkpoint.name}.old")


def load_training_state(checkpoint: Path, device: torch.device) -> dict[str, Any]:
    """Optimiser, scheduler and position of a checkpoint, read without pickle's powers.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = checkpoint / "training.pt"
    if path.is_file():
        check_stored(path)
        _check_training_state(path)
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} cannot be read ({reason}); start the run anew with another `out`") from error
    missing = sorted(TRAINING_STATE - set(state)) if isinstance(state, dict) else sorted(TRAINING_STATE)
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}; start the run anew with another `out`")
    return state


def _check_training_state(path: Path) -> None:
    """Refuses a training state that is not what was written; those of earlier versions have no digest."""
    try:
        known = read_regular(path.with_name(_TRAINING_DIGEST), _MAX_POINTER_BYTES)
    except FileNotFoundError:
        return
    if known != _file_digest(path).encode():
        raise CheckpointError(
            f"{path} is damaged: it is not what was written there; start the run anew with another `out`"
        )
