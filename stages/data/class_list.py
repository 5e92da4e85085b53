"""Lists of classes, name → number: classes.json beside shards or in a run's folder, and the class folders of a tree."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...artifacts_schema import OptionError
from ...artifacts_schema.access.stream import read_small
from ...artifacts_schema.files import read_regular, write_atomically
from .shards import Shard, is_url, location_of

CLASSES_FILE = "classes.json"
# A head has a row of weights for each class.
MAX_CLASSES = 1 << 20
_MAX_BYTES = 256 << 20  # of a list


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassList:
    """Numbers of classes by name, and the place that says so: a file, or a tree of class folders."""

    place: str
    number_of: Mapping[str, int]

    @property
    def num_classes(self) -> int:
        """Number of classes that a head needs for them."""
        return max(self.number_of.values(), default=-1) + 1

    def to_json(self) -> str:
        """The text of a classes.json."""
        in_order = dict(sorted(self.number_of.items(), key=lambda item: item[1]))
        return json.dumps(in_order, indent=1, ensure_ascii=False) + "\n"


def class_list_of(path: Path) -> ClassList:
    """The classes of a classes.json, of the folder that holds one, or of the class folders of a tree.

    Raises:
        OptionError: there are none.
    """
    file = path / CLASSES_FILE if path.is_dir() else path
    if not path.exists():
        raise OptionError(f"`classes={str(path)!r}` is not there; give a classes.json, or a folder of class folders")
    if file.is_file():
        found = _parsed(file, _read(file, "mend it"))
        if found is None:
            raise OptionError(f"`classes={str(path)!r}`: {file} does not map names to numbers; give another list")
        return found
    names = class_folders(path)
    if not names:
        raise OptionError(f"`classes={str(path)!r}` has no class folders and no classes.json; give another folder")
    return ClassList(place=str(path), number_of={name: i for i, name in enumerate(names)})


def class_folders(root: Path) -> list[str]:
    """Names of the folders in `root` that are classes, in the order of their numbers.

    Hidden folders are none, nor are links that lead back to a folder that `root` lies in.
    """
    above = {root.resolve(), *root.resolve().parents}
    folders = (d for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))
    return sorted(d.name for d in folders if not d.is_symlink() or d.resolve() not in above)


def listed_classes(shards: Sequence[Shard]) -> int | None:
    """Counts the classes that the classes.json beside shards lists; None if there is none.

    Raises:
        OptionError: it lists nothing.
        RemoteError: the place of the shards does not tell whether there is one.
    """
    found = _beside(shards, "mend it, or pass `num_classes`")
    if found is None:
        return None
    listed = _parsed(*found)
    return len(found[1]) if listed is None else listed.num_classes


def class_list_beside(shards: Sequence[Shard]) -> ClassList | None:
    """The classes.json beside shards; None if there is none that maps names to numbers.

    Raises:
        RemoteError: the place of the shards does not tell whether there is one.
    """
    try:
        found = _beside(shards, "")
        return None if found is None else _parsed(*found)
    except OptionError:
        return None  # whoever needs it says so


def keep_class_list(run: Path, classes: ClassList | None) -> None:
    """Writes the classes that a run trains into its folder, if they are known."""
    if classes is not None:
        write_atomically(run / CLASSES_FILE, classes.to_json().encode())


def class_list_of_run(place: Path) -> ClassList | None:
    """The classes that a run trains, as its folder says; None if it does not.

    Args:
        place: the folder, or a file of weights in it.
    """
    for folder in (place, *place.absolute().parents[:3]):
        path = folder / CLASSES_FILE
        if path.is_file() and (folder / "config.json").is_file():  # the record of a run
            try:
                return _parsed(path, _read(path, ""))
            except OptionError:
                return None
    return None


def difference(trained: ClassList, given: ClassList) -> str | None:
    """Says where two lists give one class two numbers, or one number two classes; None if they agree.

    One list may lack classes of the other. Lists that have no name in common are of other names for the same classes,
    as far as anybody can tell: they agree.
    """
    shared = [name for name in given.number_of if name in trained.number_of]
    for name in shared:
        ours, theirs = trained.number_of[name], given.number_of[name]
        if ours != theirs:
            return f"class {name!r} is number {ours} in {trained.place} and {theirs} in {given.place}"
    if not shared:
        return None
    names = {number: name for name, number in trained.number_of.items()}
    for name, number in given.number_of.items():
        if name not in trained.number_of and number in names:
            return f"class number {number} is {names[number]!r} in {trained.place} and {name!r} in {given.place}"
    return None


def pack_anew(classes: ClassList) -> str:
    """The command that packs a tree by the numbers of a list."""
    if is_url(classes.place):
        return f"dataltt pack --classes {CLASSES_FILE} SRC OUT, with a copy of {classes.place}"
    return f"dataltt pack --classes {shlex.quote(classes.place)} SRC OUT"


def _beside(shards: Sequence[Shard], way_out: str) -> tuple[Path | str, Any] | None:
    """The place of the classes.json beside shards, and the document in it; None if there is none.

    Where shards come out of a command (pipe:…), nothing is beside them.
    """
    first = shards[0]
    if not is_url(first.url):
        path = Path(first.url).parent / CLASSES_FILE
        return (path, _read(path, way_out)) if path.exists() else None
    location = location_of(first, beside=CLASSES_FILE)
    content = None if location is None else read_small(location, _MAX_BYTES)
    return None if location is None or content is None else (location.place, _listing(location.place, content, way_out))


def _read(path: Path, way_out: str) -> Any:
    """A JSON document that lists something."""
    try:
        content = read_regular(path, _MAX_BYTES)
    except (ValueError, OSError) as error:
        raise OptionError(f"{path} does not list classes ({error}); {way_out}") from None
    return _listing(path, content, way_out)


def _listing(path: Path | str, content: bytes, way_out: str) -> Any:
    try:
        document = json.loads(content)
        len(document)
    except (ValueError, TypeError, RecursionError) as error:
        raise OptionError(f"{path} does not list classes ({error}); {way_out}") from None
    return document


def _parsed(path: Path | str, document: Any) -> ClassList | None:
    """The list in a document: an object of name → number, or an array of names; None of anything else.

    Raises:
        OptionError: a number that no class has.
    """
    if isinstance(document, list) and document and all(isinstance(name, str) for name in document):
        document = {name: i for i, name in enumerate(document)}
    if not isinstance(document, dict) or not document or not all(type(n) is int for n in document.values()):
        return None
    for name, number in document.items():
        if not 0 <= number < MAX_CLASSES:
            raise OptionError(f"{path}: {number} is no number of a class ({name!r}); they count from 0, mend the list")
    return ClassList(place=str(path), number_of=document)
