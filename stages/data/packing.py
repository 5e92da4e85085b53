"""Packing images into WebDataset shards, from an ImageFolder tree or from any iterable of encoded samples."""

from __future__ import annotations

import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import webdataset as wds

from ...artifacts_schema import DuplicateKeyError, OptionError, OutputExistsError, SampleError
from ...artifacts_schema.files import check_writable, writing
from ...artifacts_schema.space import check_space
from ...artifacts_schema.strings import MAX_STRING_BYTES
from ..runtime.randomness import generator_of
from ..runtime.reporting import Reporter
from .shards import IMAGE_EXTENSIONS, METADATA_NAME

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
    """Summary of the shards that were written."""

    shards: list[str]
    num_samples: int
    num_classes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _SourceImage:
    path: Path
    key: str
    label: int


def key_of(relative_path: Path) -> str:
    """A file's key: its path below the root without the extension, dots replaced by underscores.

    A dot would end the key in a shard, where the rest of the name is the extension.
    """
    return relative_path.as_posix().removesuffix(relative_path.suffix).replace(".", "_")


def pack_image_folder(
    source: Path,
    out: Path,
    *,
    name: str = "train",
    max_count: int = 1000,
    shuffle: bool = True,
    seed: int = 0,
    reporter: Reporter,
) -> PackSummary:
    """Packs an ImageFolder tree (source/CLASS/…/IMAGE) into shards; classes are numbered in sorted order.

    Images are copied as they are. They are shuffled before packing (by `seed`), since a trainer that streams shards
    needs every shard to hold many classes.

    Raises:
        OptionError: the source is no folder, or has no class folders or images.
        DuplicateKeyError: two files have one key (a.jpg and a.png).
        OutputExistsError: shards of this name are in `out` already.
        DiskError: there is no room for them, or they cannot be written there.
    """
    check_writable(out)
    classes, images = find_images(source)
    order = generator_of(seed, "pack", name).permutation(len(images)) if shuffle else range(len(images))
    check_space(out, sum(image.path.stat().st_size + _MEMBERS_BYTES for image in images))
    extension_of = {".jpeg": "jpg"}

    def samples() -> Iterator[EncodedSample]:
        for i in order:
            image = images[int(i)]
            suffix = image.path.suffix.lower()
            extension = extension_of.get(suffix, suffix[1:])
            yield EncodedSample(key=image.key, image=image.path.read_bytes(), extension=extension, label=image.label)

    return write_shards(
        samples(), out, name=name, max_count=max_count, classes=classes, total=len(images), reporter=reporter
    )


def find_images(source: Path) -> tuple[list[str], list[_SourceImage]]:
    """Class names in sorted order, and all images below them in sorted order, their keys checked."""
    if not source.is_dir():
        raise OptionError(f"{source} is not a folder; give the root of an ImageFolder tree (SRC/CLASS/IMAGE.jpg)")
    classes = sorted(d.name for d in source.iterdir() if d.is_dir())
    images: list[_SourceImage] = []
    path_of_key: dict[str, Path] = {}
    for label, class_name in enumerate(classes):
        for path in sorted((source / class_name).rglob("*")):
            if path.suffix.lower()[1:] not in IMAGE_EXTENSIONS or not path.is_file():
                continue
            key = key_of(path.relative_to(source))
            if key in path_of_key:
                raise DuplicateKeyError(key, str(path_of_key[key]), str(path))
            _check_key(key, path)
            path_of_key[key] = path
            images.append(_SourceImage(path=path, key=key, label=label))
    if not images:
        raise OptionError(
            f"{source} has no images in class folders (SRC/CLASS/IMAGE, {', '.join(IMAGE_EXTENSIONS)}); "
            "give the folder that holds the class folders"
        )
    return classes, images


def _check_key(key: str, path: Path) -> None:
    try:
        num_bytes = len(key.encode())
    except UnicodeEncodeError:
        raise SampleError(f"{str(path)!a}: its name is not UTF-8; rename the file or its folder") from None
    if num_bytes > MAX_STRING_BYTES:
        raise SampleError(f"{path}: its key is longer than {MAX_STRING_BYTES} bytes; shorten the path")
    if METADATA_NAME.match(key):
        raise SampleError(f"{path}: readers of shards take names like __this__ for metadata; rename the file or folder")


def write_shards(
    samples: Iterable[EncodedSample],
    out: Path,
    *,
    name: str,
    max_count: int,
    classes: Sequence[str],
    total: int,
    reporter: Reporter,
) -> PackSummary:
    """Writes samples into out/NAME-000000.tar … and class names into out/classes.json, all of them or nothing.

    Raises:
        OutputExistsError: shards of this name, or a classes.json of other classes, are in `out` already.
        DiskError: they cannot be written there.
    """
    if max_count < 1:
        raise OptionError(f"`max_count={max_count}` should be at least 1")
    if not name or "/" in name:
        raise OptionError(f"`name={name!r}` should be a plain name such as train")
    classes_path = out / "classes.json"
    classes_text = json.dumps({c: i for i, c in enumerate(classes)}, indent=1, ensure_ascii=False) + "\n"
    if taken := sorted(out.glob(f"{glob.escape(name)}-*.tar")):
        raise OutputExistsError(
            f"{taken[0]} exists; delete the {name} shards, or choose another `name` or another folder"
        )
    if classes_path.exists() and classes_path.read_text() != classes_text:
        raise OutputExistsError(
            f"{classes_path} lists other classes than this source has; pack it into a folder of its own"
        )
    check_writable(out)
    created = not out.exists()
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".packing-", dir=out))
    try:
        with writing(out):
            num_samples = _write(samples, temporary, name, max_count, total, reporter)
            shards = sorted(temporary.glob("*.tar"))
            (temporary / classes_path.name).write_text(classes_text)
            for shard in (temporary / classes_path.name, *shards):
                os.replace(shard, out / shard.name)
    except BaseException:
        shutil.rmtree(temporary)
        if created:
            shutil.rmtree(out)
        raise
    shutil.rmtree(temporary)
    return PackSummary(shards=[str(out / s.name) for s in shards], num_samples=num_samples, num_classes=len(classes))


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
