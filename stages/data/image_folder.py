"""ImageFolder trees: their classes, the images in them with keys, and what is left out, counted by reason."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...artifacts_schema import DuplicateKeyError, OptionError, SampleError
from ...artifacts_schema.strings import MAX_STRING_BYTES
from .class_list import ClassList, class_folders
from .shards import IMAGE_EXTENSIONS, METADATA_NAME

_PLAIN_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceImage:
    """Image file with its key and the number of its class."""

    path: Path
    key: str
    label: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTree:
    """Images of a tree in sorted order, numbers of its classes by name, and how many of what were left out."""

    number_of: Mapping[str, int]
    images: list[SourceImage]
    left_out: dict[str, int]


def key_of(relative_path: Path) -> str:
    """A file's key: its path below the root without the extension, dots replaced by underscores.

    A dot would end the key in a shard, where the rest of the name is the extension.
    """
    return relative_path.as_posix().removesuffix(relative_path.suffix).replace(".", "_")


def described(left_out: Mapping[str, int]) -> str:
    """Counts in words: "3 .bmp, 2 hidden folders"."""
    return ", ".join(f"{n} {what}{'s' * (n > 1 and what[0] != '.')}" for what, n in left_out.items())


def find_images(source: Path, listed: ClassList | None = None) -> ImageTree:
    """Finds the images below source/CLASS/, linked folders included.

    Hidden folders and files, files of other kinds, and links that lead back to a folder above them are left out.

    Args:
        listed: classes to number the folders by. Default: their own sorted order.

    Raises:
        OptionError: the source is no folder, or has no image; a class that is not listed, or has no image.
        DuplicateKeyError: two files have one key (a.jpg and a.png).
        SampleError: a name that cannot be a key.
    """
    if not source.is_dir():
        raise OptionError(f"{source} is not a folder; give the root of an ImageFolder tree (SRC/CLASS/IMAGE.jpg)")
    left_out: Counter[str] = Counter()
    paths = {name: list[Path]() for name in class_folders(source)}
    number_of = _numbers(source, list(paths), listed)
    empty: dict[str, Counter[str]] = {}
    for path in _files(str(source), frozenset({os.path.realpath(source)}), left_out, below=False):
        own: Counter[str] = Counter()
        name = os.path.basename(path)
        paths[name] = sorted(map(Path, _files(path, frozenset({os.path.realpath(source)}), own)))
        left_out += own
        if not paths[name]:
            empty[name] = own
    left = dict(sorted(left_out.items()))
    if not any(paths.values()):
        raise OptionError(
            f"{source} has no images in class folders (SRC/CLASS/IMAGE, {', '.join(IMAGE_EXTENSIONS)}"
            + (f"; left out: {described(left)}" if left else "")
            + "); give the folder that holds the class folders"
        )
    if empty and listed is None:
        raise _empty_class(source, *min(empty.items()))
    left |= {"empty class folder": len(empty)} if empty else {}
    return ImageTree(number_of=number_of, images=_keyed(source, paths, number_of), left_out=left)


def _numbers(source: Path, names: list[str], listed: ClassList | None) -> Mapping[str, int]:
    if listed is None:
        return {name: i for i, name in enumerate(names)}
    unknown = [name for name in names if name not in listed.number_of]
    if unknown:
        raise OptionError(
            f"class folder {str(source / unknown[0])!r} is none of the {len(listed.number_of)} classes that "
            f"{listed.place} lists, nor are {len(unknown) - 1} others; take them away, or pack all trees by one list "
            "that has them (`classes`)"
        )
    return listed.number_of


def _empty_class(source: Path, name: str, left_out: Mapping[str, int]) -> OptionError:
    has = f" (it has {described(dict(sorted(left_out.items())))})" if left_out else ""
    return OptionError(
        f"class folder {str(source / name)!r} has no image{has}, so it would take a number for nothing; remove it, or "
        f"say that it is meant with `classes={str(source)!r}`"
    )


def _files(folder: str, above: frozenset[str], left_out: Counter[str], *, below: bool = True) -> Iterator[str]:
    """Yields the images of a folder and of those in it; with `below` off, the folders in it instead.

    Args:
        above: real paths of the folders that hold it.
        left_out: is added to.
    """
    above |= {os.path.realpath(folder)}
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            is_folder = os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()
            if entry.name.startswith("."):
                left_out["hidden folder" if is_folder else "hidden file"] += 1
            elif is_folder and os.path.realpath(entry.path) in above:
                left_out["looping link"] += 1
            elif is_folder and not below:
                yield entry.path
            elif is_folder:
                yield from _files(entry.path, above, left_out)
            elif not os.path.isfile(entry.path):
                left_out["broken link" if entry.is_symlink() else "special file"] += 1
            elif not below:
                left_out["loose file"] += 1
            elif (suffix := os.path.splitext(entry.name)[1].lower())[1:] in IMAGE_EXTENSIONS:
                yield entry.path
            else:
                left_out[suffix if _PLAIN_SUFFIX.fullmatch(suffix) else "other file"] += 1


def _keyed(source: Path, paths: Mapping[str, list[Path]], number_of: Mapping[str, int]) -> list[SourceImage]:
    images: list[SourceImage] = []
    path_of_key: dict[str, Path] = {}
    for name, of_class in paths.items():
        for path in of_class:
            key = key_of(path.relative_to(source))
            if key in path_of_key:
                raise DuplicateKeyError(key, str(path_of_key[key]), str(path))
            _check_key(key, path)
            path_of_key[key] = path
            images.append(SourceImage(path=path, key=key, label=number_of[name]))
    return images


def _check_key(key: str, path: Path) -> None:
    try:
        num_bytes = len(key.encode())
    except UnicodeEncodeError:
        raise SampleError(f"{str(path)!a}: its name is not UTF-8; rename the file or its folder") from None
    if num_bytes > MAX_STRING_BYTES:
        raise SampleError(f"{path}: its key is longer than {MAX_STRING_BYTES} bytes; shorten the path")
    if METADATA_NAME.match(key):
        raise SampleError(f"{path}: readers of shards take names like __this__ for metadata; rename the file or folder")
