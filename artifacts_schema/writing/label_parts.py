"""Parts of a labelling: the token labels of one source shard each, as parts.py has them for tickets.

Label maps are far larger than tickets, so a part is written and read a batch at a time (one Parquet row group each).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import IncompletePartsError, one_line
from ..files import writing
from ..token_labels import TOP_K, LabelMaps
from .parts import fixed_size_column, part_path

_METADATA_KEY = b"dataltt-labels"
_DTYPES = {"ids": np.dtype(np.uint16), "scores": np.dtype(np.float16)}


def label_parts_dir(store_path: Path) -> Path:
    """Folder of the parts of a labelling that is not finished yet."""
    return store_path.with_name(store_path.name + ".labels.parts")


class LabelPartWriter:
    """Writes the part of shard number `index`, whole or not at all: it is there once `close` has returned.

    Letters: n rows, V views, P patches.
    """

    def __init__(self, directory: Path, index: int, shard: str, *, num_views: int, num_patches: int) -> None:
        self._path = part_path(directory, index)
        self._temporary = self._path.with_name(f"{self._path.name}.tmp-{os.getpid()}")
        width = num_views * num_patches * TOP_K
        schema = pa.schema([(name, pa.binary(width * dtype.itemsize)) for name, dtype in _DTYPES.items()])
        self._schema = schema.with_metadata({_METADATA_KEY: json.dumps({"shard": shard}).encode()})
        self._writer: Any = None
        with self._whole_or_gone():
            self._writer = pq.ParquetWriter(
                self._temporary,
                self._schema,
                compression="zstd",
                use_dictionary=False,
                write_statistics=False,  # they would repeat whole label maps
                write_page_checksum=True,
            )

    def append(self, maps: LabelMaps) -> None:
        """Appends the maps of some rows, [n, V, P, 5].

        Raises:
            DiskError: they cannot be written; the part is gone.
        """
        columns = [fixed_size_column(a) for a in (maps.ids, maps.scores)]
        with self._whole_or_gone():
            self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))

    def close(self) -> None:
        """Puts the part in its place.

        Raises:
            DiskError: it cannot be written, and is gone.
        """
        with self._whole_or_gone():
            self._writer.close()
            os.replace(self._temporary, self._path)

    @contextmanager
    def _whole_or_gone(self) -> Iterator[None]:
        try:
            with writing(self._path):
                yield
        except BaseException:
            if self._writer is not None:
                with suppress(OSError, pa.ArrowException):
                    self._writer.close()
                self._writer.is_open = False  # else it would try again when it is collected
            self._temporary.unlink(missing_ok=True)
            raise


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPart:
    """A finished part; its rows are read when they are asked for."""

    path: Path
    shard: str
    num_rows: int

    def batches(self, *, num_views: int, num_patches: int) -> Iterator[LabelMaps]:
        """The maps [n, V, P, 5] of all rows, in order, some at a time.

        Raises:
            IncompletePartsError: the part is damaged, or of other widths.
        """
        try:
            with pq.ParquetFile(self.path, page_checksum_verification=True) as file:
                for group in range(file.num_row_groups):
                    # One thread: Arrow's pool would keep every thread's buffers.
                    table = file.read_row_group(group, use_threads=False)
                    ids, scores = (_array(table, n, d, num_views, num_patches) for n, d in _DTYPES.items())
                    yield LabelMaps(ids, scores)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise IncompletePartsError(
                f"{self.path} is damaged ({one_line(error)}); delete it and label again"
            ) from error


def _array(table: pa.Table, name: str, dtype: np.dtype[Any], num_views: int, num_patches: int) -> npt.NDArray[Any]:
    column = table.column(name).combine_chunks()
    shape = (len(column), num_views, num_patches, TOP_K)
    num_bytes = int(np.prod(shape)) * dtype.itemsize
    if column.type != pa.binary(num_bytes // max(1, len(column))) or column.null_count:
        raise ValueError(f"column {name} is {column.type}")
    return np.frombuffer(column.buffers()[1], dtype=np.uint8)[:num_bytes].view(dtype).reshape(shape)


def open_label_part(path: Path) -> LabelPart:
    """A part, without its rows.

    Raises:
        IncompletePartsError: the file is not a part of a labelling.
    """
    try:
        file = pq.read_metadata(path)
        shard = str(json.loads(file.metadata[_METADATA_KEY])["shard"])
        return LabelPart(path=path, shard=shard, num_rows=file.num_rows)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise IncompletePartsError(
            f"{path} is not a readable part ({one_line(error)}); delete it and label again"
        ) from error
