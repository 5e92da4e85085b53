"""Encoded images of map-style data sets: torchvision's ImageFolder, Hugging Face's `datasets`, or plain triples."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from ...artifacts_schema import OptionError, SampleError
from .image_folder import key_of
from .shards import RawSample


class EncodedImages(Protocol):
    """Images as files hold them, by number; `keys` is None where they have none."""

    name: str
    keys: list[str] | None

    def __len__(self) -> int: ...

    def read(self, index: int) -> RawSample:
        """Reads one image, its key, and its label, -1 where it has none."""


def encoded_images(images: Any, *, key: str | None = None, image: str = "image", label: str = "label") -> EncodedImages:
    """The encoded images of a data set.

    Args:
        images: an ImageFolder; a Hugging Face set; or a sequence of (key, encoded bytes, label).
        key, image, label: columns of a Hugging Face set.

    Raises:
        OptionError: another kind of set, or one without these columns.
    """
    if hasattr(images, "samples") and hasattr(images, "root"):
        return FolderImages(images)
    if hasattr(images, "cast_column") and hasattr(images, "column_names"):
        return HubImages(images, key=key, image=image, label=label)
    if isinstance(images, Sequence) and not isinstance(images, str | bytes):
        return TripleImages(images)
    raise OptionError(
        f"`images` are of type {type(images).__name__}; give a torchvision ImageFolder, a Hugging Face Dataset (not a "
        "streamed one), or a sequence of (key, encoded bytes, label)"
    )


class FolderImages:
    """An ImageFolder (or any of torchvision's DatasetFolders); keys are those that `dataltt pack` gives."""

    def __init__(self, folder: Any) -> None:
        self.name = str(folder.root)
        self._samples: list[tuple[str, int]] = list(folder.samples)
        self.keys: list[str] | None = [key_of(Path(path).relative_to(folder.root)) for path, _ in self._samples]

    def __len__(self) -> int:
        return len(self._samples)

    def read(self, index: int) -> RawSample:
        """Reads the file of one image, as it is."""
        path, label = self._samples[index]
        assert self.keys is not None
        return RawSample(shard=self.name, key=self.keys[index], image=Path(path).read_bytes(), label=label)


class HubImages:
    """A Hugging Face set; what it holds are the encoded files, which it is kept from decoding."""

    def __init__(self, rows: Any, *, key: str | None, image: str, label: str) -> None:
        self.name = "the Hugging Face set"
        wanted = {"key": key, "image": image}
        for option, column in wanted.items():
            if column is not None and column not in rows.column_names:
                raise OptionError(f"`{option}` {column!r} is none of the columns {', '.join(rows.column_names)}")
        encoded = import_module("datasets").Image(decode=False)
        self._rows = rows.with_format(None).cast_column(image, encoded)
        self._image, self._label = image, label if label in rows.column_names else None
        self.keys = None if key is None else [str(k) for k in self._rows[key]]

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> RawSample:
        """Reads one row.

        Raises:
            SampleError: it has no image.
        """
        row = self._rows[index]
        file, key = row[self._image], f"row {index}" if self.keys is None else self.keys[index]
        if file is None or (file["bytes"] is None and file["path"] is None):
            raise SampleError(f"{self.name}: {key} has no image; leave it out with rows.filter")
        encoded = file["bytes"] if file["bytes"] is not None else Path(file["path"]).read_bytes()
        label = row[self._label] if self._label is not None else None
        return RawSample(shard=self.name, key=key, image=encoded, label=-1 if label is None else int(label))


class TripleImages:
    """A sequence of (key, encoded bytes, label)."""

    def __init__(self, triples: Sequence[tuple[str, bytes, int]]) -> None:
        self.name = "the images"
        self._triples = triples
        self.keys: list[str] | None = [str(key) for key, _, _ in triples]

    def __len__(self) -> int:
        return len(self._triples)

    def read(self, index: int) -> RawSample:
        """Reads one triple."""
        key, image, label = self._triples[index]
        return RawSample(shard=self.name, key=key, image=image, label=label)
