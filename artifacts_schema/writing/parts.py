"""Parts: one Parquet file per source shard, the unit of work and of restart in stage one.

A part is written under a temporary name and renamed when whole, and is never written again. `plan.json` beside the
parts says what they are parts of; a selection goes on only under the same plan.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from ..adaptive import Counts, Shares
from ..errors import IncompletePartsError, one_line
from ..files import replacing, write_atomically, writing
from ..manifest import SkippedSample
from ..tickets import Packed, Ranks, num_ticket_bytes

_METADATA_KEY = b"dataltt"
_REQUIRED = frozenset({"key", "label", "digest", "tickets"})
_KINDS = {"key": pa.large_string(), "label": pa.int32(), "digest": pa.uint64()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The tickets of one shard, rows in the shard's own order.

    Letters: R rows, V views, W ticket bytes, P patches. boxes are fractions of the source image (y0, x0, height,
    width); boxes and flips are there only where views are, and shares (artifacts_schema/adaptive.py) only where tickets
    are adaptive: those still have K patches, and counts are found when the part is committed.
    """

    shard: str
    keys: pa.Array
    labels: npt.NDArray[np.int32]  # [R], -1 where unknown
    digests: npt.NDArray[np.uint64]  # [R]
    tickets: Packed  # [R, V, W]
    ranks: Ranks | None = None  # [R, V, P]
    boxes: npt.NDArray[np.float32] | None = None  # [R, V, 4]
    flips: npt.NDArray[np.uint8] | None = None  # [R, V]
    shares: Shares | None = None  # [R, V, K - L]
    counts: Counts | None = None  # [R, V]
    skipped: Sequence[SkippedSample] = field(default_factory=tuple)

    @property
    def num_rows(self) -> int:
        """Number of rows (images), R."""
        return len(self.keys)

    @property
    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays of rows that it has, by their paths in a store."""
        named: dict[str, npt.NDArray[Any] | None]
        named = {"labels": self.labels, "digests": self.digests, "tickets": self.tickets, "ranks": self.ranks}
        named |= {"views/boxes": self.boxes, "views/flips": self.flips, "counts": self.counts}
        return {path: array for path, array in named.items() if array is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class _About:
    """Metadata of a part's file."""

    shard: str
    skipped: list[SkippedSample]


_ADAPTER = TypeAdapter(_About)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartHeader:
    """Facts about a part that are known without reading its rows."""

    path: Path
    shard: str
    num_rows: int
    skipped: tuple[SkippedSample, ...]


def parts_dir(store_path: Path) -> Path:
    """Folder of the parts of a store that is not finished yet."""
    return store_path.with_name(store_path.name + ".parts")


def part_path(directory: Path, index: int) -> Path:
    """The file of the part of shard number `index`."""
    return directory / f"part-{index:06d}.parquet"


def begin_plan(
    directory: Path,
    plan: dict[str, Any],
    *,
    discard_others: bool = False,
    work: str = "selection",
    suffix: str = ".parquet",
    way_out: str = "choose another `out`, or pass `overwrite=True` to discard them",
) -> None:
    """Creates the parts directory for a plan, or goes on with the one there if it is for the same plan.

    Args:
        discard_others: parts made under another plan are removed instead of refused (a plan without parts always is).
        work, way_out: what the parts are of, and what else the user can do, for the error's sentence.
        suffix: of the parts' files.

    Raises:
        IncompletePartsError: parts made under another plan are there.
        DiskError: it cannot be written.
    """
    plan = json.loads(json.dumps(plan))
    path = directory / "plan.json"
    if path.exists():
        found = json.loads(path.read_text())
        if found == plan:
            return
        if not discard_others and any(directory.glob(f"part-*{suffix}")):
            different = sorted(k for k in {*found, *plan} if found.get(k) != plan.get(k))
            raise IncompletePartsError(
                f"{directory} holds parts of another {work} (it differs in {', '.join(different)}); "
                f"run that one to its end, {way_out}"
            )
        shutil.rmtree(directory)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(plan, indent=1).encode())


def fixed_size_column(array: npt.NDArray[Any]) -> pa.Array:
    """[R, ...] of any dtype as R fixed-size binaries."""
    rows = len(array)
    flat = np.ascontiguousarray(array)
    width = int(np.prod(flat.shape[1:])) * flat.itemsize
    return pa.Array.from_buffers(pa.binary(width), rows, [None, pa.py_buffer(flat)])


def write_part(directory: Path, index: int, part: Part) -> None:
    """Writes the part of shard number `index`, whole or not at all.

    Raises:
        DiskError: it cannot be written.
    """
    columns: dict[str, pa.Array] = {
        "key": part.keys.cast(pa.large_string()),
        "label": pa.array(part.labels, type=pa.int32()),
        "digest": pa.array(part.digests, type=pa.uint64()),
        "tickets": fixed_size_column(part.tickets),
    }
    for name in ("ranks", "boxes", "flips", "shares"):
        array = getattr(part, name)
        if array is not None:
            columns[name] = fixed_size_column(array)
    skipped = [{"shard": s.shard, "key": s.key, "reason": s.reason} for s in part.skipped]
    metadata = {_METADATA_KEY: json.dumps({"shard": part.shard, "skipped": skipped}).encode()}
    table = pa.table(columns).replace_schema_metadata(metadata)
    path = part_path(directory, index)
    with writing(path, needs=table.nbytes), replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", use_dictionary=False, write_page_checksum=True)


def read_header(path: Path) -> PartHeader:
    """Reads a part's header.

    Raises:
        IncompletePartsError: the file is not a part.
    """
    try:
        file = pq.read_metadata(path)
        about = _ADAPTER.validate_json(file.metadata[_METADATA_KEY], strict=True)
        return PartHeader(path=path, shard=about.shard, num_rows=file.num_rows, skipped=tuple(about.skipped))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise IncompletePartsError(
            f"{path} is not a readable part ({one_line(error)}); delete it and run the selection again"
        ) from error


def _read_table(header: PartHeader, columns: list[str] | None) -> pa.Table:
    try:
        # One thread: parts are small, and Arrow's pool would keep every thread's buffers.
        table = pq.read_table(header.path, columns=columns, use_threads=False, page_checksum_verification=True)
        table.validate(full=True)  # text that is no UTF-8
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _damaged(header, one_line(error)) from error
    for name, column in zip(table.column_names, table.columns, strict=True):
        is_doubled, kind = table.column_names.count(name) > 1, _KINDS.get(name, column.type)
        if is_doubled or column.null_count or column.type != kind:
            raise _damaged(header, f"column {name} is not what it should be")
    missing = _REQUIRED.intersection(columns or _REQUIRED) - set(table.column_names)
    if missing:
        raise _damaged(header, f"no column {sorted(missing)[0]}")
    return table.combine_chunks()


def _damaged(header: PartHeader, reason: str) -> IncompletePartsError:
    return IncompletePartsError(f"{header.path} is damaged ({reason}); delete it and run the selection again")


def read_keys(header: PartHeader) -> pa.ChunkedArray:
    """The keys of a part alone."""
    return _read_table(header, ["key"]).column("key")


def _array(
    header: PartHeader, table: pa.Table, name: str, dtype: np.dtype[Any], *shape: int
) -> npt.NDArray[Any] | None:
    """A column of fixed-size rows; None where the part has none of this name."""
    if name not in table.column_names:
        return None
    column = table.column(name).combine_chunks()
    width = int(np.prod(shape)) * dtype.itemsize
    if column.type != pa.binary(width):
        raise _damaged(header, f"column {name} is {column.type}, not {width} bytes per row")
    raw = np.frombuffer(column.buffers()[1], dtype=np.uint8)[: len(column) * width]
    return raw.view(dtype).reshape(len(column), *shape)


def read_shares(header: PartHeader, *, num_views: int, num_shares: int) -> Shares:
    """The shares of a part alone, uint16 [R, V, K - L].

    Raises:
        IncompletePartsError: it has none, or is damaged.
    """
    shares = _array(header, _read_table(header, ["shares"]), "shares", np.dtype(np.uint16), num_views, num_shares)
    if shares is None:
        raise _damaged(header, "no column shares")
    return shares


def read_part(
    header: PartHeader, *, num_views: int, num_patches: int, ranks_dtype: np.dtype[Any], num_shares: int = 0
) -> Part:
    """Reads the rows of a part.

    Args:
        num_shares: of each view, K - L.

    Raises:
        IncompletePartsError: it is damaged, or its columns are of other widths.
    """
    table = _read_table(header, None)

    def array(name: str, dtype: np.dtype[Any], *shape: int) -> npt.NDArray[Any] | None:
        return _array(header, table, name, dtype, *shape)

    tickets = array("tickets", np.dtype(np.uint8), num_views, num_ticket_bytes(num_patches))
    assert tickets is not None  # _read_table looked for it
    return Part(
        shard=header.shard,
        keys=table.column("key").combine_chunks(),
        labels=table.column("label").to_numpy(),
        digests=table.column("digest").to_numpy(),
        tickets=tickets,
        ranks=array("ranks", ranks_dtype, num_views, num_patches),
        boxes=array("boxes", np.dtype(np.float32), num_views, 4),
        flips=array("flips", np.dtype(np.uint8), num_views),
        shares=array("shares", np.dtype(np.uint16), num_views, num_shares),
        skipped=header.skipped,
    )
