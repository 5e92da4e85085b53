"""Packing images into WebDataset shards, from an ImageFolder tree or from any iterable of encoded samples."""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import webdataset as wds

from ...artifacts_schema import OptionError, OutputExistsError
from ...artifacts_schema.files import check_writable, write_atomically, writing
from ...artifacts_schema.locking import held, lock_of
from ...artifacts_schema.space import check_space
from ..runtime.randomness import generator_of
from ..runtime.reporting import Reporter
from .class_list import CLASSES_FILE, ClassList, class_list_of, difference
from .image_folder import find_images

_FOLDER = ".packing"  # in the shards' folder: where they are written
_MOVED = "moved.json"  # in there: names of those that are being moved out of it
_MEMBERS_BYTES = 3 * 512  # of a sample in a shard beside its image: two headers and its label


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSample:
    """Sample ready to be written. `extension` is one of IMAGE_EXTENSIONS, without the dot."""

    key: str
    image: bytes
    extension: str
    label: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSummary:
    """Summary of the shards that were written.

    Attributes:
        num_classes: classes that are listed beside them; 0 where none are.
        left_out: how many of what else there was are in no shard.
    """

    shards: list[str]
    num_samples: int
    num_classes: int
    left_out: dict[str, int] = field(default_factory=dict)


def pack_image_folder(
    source: Path,
    out: Path,
    *,
    name: str = "train",
    max_count: int = 1000,
    shuffle: bool = True,
    seed: int = 0,
    classes: Path | None = None,
    reporter: Reporter,
) -> PackSummary:
    """Packs an ImageFolder tree (source/CLASS/…/IMAGE) into shards; classes are numbered in sorted order.

    Images are copied as they are. They are shuffled before packing (by `seed`), since a trainer that streams shards
    needs every shard to hold many classes.

    Args:
        classes: number the classes as this classes.json does, or the folder that holds one, or another tree.

    Raises:
        OptionError: the source is no folder, or has no class folders or images, or an empty class, or one that
            `classes` does not list.
        SampleError: a name that cannot be a key.
        DuplicateKeyError: two files have one key (a.jpg and a.png).
        OutputExistsError: shards of this name are in `out` already.
        DiskError: there is no room for them, or they cannot be written there.
    """
    check_writable(out)
    tree = find_images(source, None if classes is None else class_list_of(classes))
    images = tree.images
    order = generator_of(seed, "pack", name).permutation(len(images)) if shuffle else range(len(images))
    check_space(out, sum(image.path.stat().st_size + _MEMBERS_BYTES for image in images))
    extension_of = {".jpeg": "jpg"}

    def samples() -> Iterator[EncodedSample]:
        for i in order:
            image = images[int(i)]
            suffix = image.path.suffix.lower()
            extension = extension_of.get(suffix, suffix[1:])
            yield EncodedSample(key=image.key, image=image.path.read_bytes(), extension=extension, label=image.label)

    written = write_shards(
        samples(), out, name=name, max_count=max_count, classes=tree.number_of, total=len(images), reporter=reporter
    )
    return replace(written, left_out=tree.left_out)


def write_shards(
    samples: Iterable[EncodedSample],
    out: Path,
    *,
    name: str,
    max_count: int,
    classes: Sequence[str] | Mapping[str, int],
    total: int,
    reporter: Reporter,
) -> PackSummary:
    """Writes samples into out/NAME-000000.tar … and class names into out/classes.json, all of them or nothing.

    Raises:
        OutputExistsError: shards of this name, or a classes.json of other classes, are in `out` already.
        LockedError: another process packs into `out`.
        DiskError: they cannot be written there.
    """
    if max_count < 1:
        raise OptionError(f"`max_count={max_count}` should be at least 1")
    if not name or "/" in name:
        raise OptionError(f"`name={name!r}` should be a plain name such as train")
    given = classes if isinstance(classes, Mapping) else {c: i for i, c in enumerate(classes)}
    listed = ClassList(place="this source", number_of=given)
    with packing_into(out):
        classes_path = out / CLASSES_FILE
        if taken := sorted(out.glob(f"{glob.escape(name)}-*.tar")):
            raise OutputExistsError(
                f"{taken[0]} exists; delete the {name} shards, or choose another `name` or another folder"
            )
        if classes_path.exists() and classes_path.read_text(encoding="utf-8") != listed.to_json():
            raise _other_classes(classes_path, listed)
        check_writable(out)
        with writing(out), new_shards(out) as temporary:
            num_samples = _write(samples, temporary, name, max_count, total, reporter)
            names = sorted(shard.name for shard in temporary.glob("*.tar"))
            (temporary / CLASSES_FILE).write_text(listed.to_json(), encoding="utf-8")
    return PackSummary(shards=[str(out / n) for n in names], num_samples=num_samples, num_classes=len(given))


def _other_classes(path: Path, listed: ClassList) -> OutputExistsError:
    """A classes.json that would not fit the shards beside it."""
    there = class_list_of(path)
    found = difference(there, listed)
    lacking = [name for name in there.number_of if name not in listed.number_of]
    if found is None and lacking:
        found = f"this source has no class {lacking[0]!r}"
    return OutputExistsError(
        f"{path} lists other classes than this source has{f' ({found})' * bool(found)}; number them as it does: "
        f"`classes={str(path)!r}`"
    )


@contextmanager
def packing_into(out: Path) -> Iterator[None]:
    """Lets no other process pack into a folder while the block runs, and takes back what a killed one left half-done.

    Raises:
        LockedError: another process packs into it.
    """
    with held(lock_of(out), "dataltt pack", place=out):
        with writing(out):
            _take_back(out)
        yield


@contextmanager
def new_shards(out: Path) -> Iterator[Path]:
    """Gives a folder whose files are moved to `out` in the end: all of them or, after an error, none."""
    created, folder = not out.exists(), out / _FOLDER
    with writing(out):
        folder.mkdir(parents=True)
    try:
        yield folder
        made = sorted(folder.iterdir(), key=lambda path: path.suffix == ".tar")  # classes.json first
        new = [path.name for path in made if not (out / path.name).exists()]
        write_atomically(folder / _MOVED, json.dumps(new).encode())
        for path in made:
            os.replace(path, out / path.name)
    except BaseException:
        _take_back(out)
        if created:
            shutil.rmtree(out)
        raise
    _take_back(out)


def _take_back(out: Path) -> None:
    """Takes the files of an unfinished move away again, and the folder that they came from."""
    folder = out / _FOLDER
    if (folder / _MOVED).exists() and any(path.name != _MOVED for path in folder.iterdir()):
        for name in json.loads((folder / _MOVED).read_text(encoding="utf-8")):
            (out / name).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


class _ShardWriter:
    """Writer of one shard. Owner and time are fixed, so that packing twice gives the same bytes."""

    def __init__(self, path: Path) -> None:
        # A file, not a name: of a name with a colon webdataset would make a URL, or a command.
        self._file = path.open("wb")
        self._tar = wds.TarWriter(self._file, encoder=False, mtime=0, user="dataltt", group="dataltt")

    def write(self, sample: EncodedSample) -> None:
        """Appends a sample: its image and its label."""
        label = str(sample.label).encode()
        self._tar.write({"__key__": sample.key, sample.extension: sample.image, "cls": label})

    def close(self) -> None:
        """Writes what is left, and closes the file whatever comes."""
        with self._file:
            self._tar.close()


def _write(
    samples: Iterable[EncodedSample], folder: Path, name: str, max_count: int, total: int, reporter: Reporter
) -> int:
    count = 0
    reporter.start("packing", total, "images")
    writer: _ShardWriter | None = None
    try:
        for sample in samples:
            if count % max_count == 0:
                if writer is not None:
                    writer.close()
                writer = _ShardWriter(folder / f"{name}-{count // max_count:06d}.tar")
            assert writer is not None
            writer.write(sample)
            count += 1
            reporter.advance(1)
    finally:
        if writer is not None:
            writer.close()
    reporter.finish()
    return count
