"""Writing shards anew with the members of each sample together, and keys by another rule."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from webdataset.tariterators import base_plus_ext

from ...artifacts_schema import DuplicateKeyError, OptionError, OutputExistsError
from ...artifacts_schema.files import check_writable, writing
from ...artifacts_schema.space import check_space
from ..runtime.reporting import Reporter
from .class_list import CLASSES_FILE, listed_classes
from .member_faults import no_image
from .packing import PackSummary, new_shards, packing_into
from .shard_limits import valid_key
from .shards import IMAGE_EXTENSIONS, Shard, is_member, is_url, opened_tar, resolve_shards

KeyRule = Literal["first-dot", "last-dot"]

_TAR_SUFFIX = re.compile(r"\.(tar|tgz|tar\.[a-z0-9]+)$")


def regroup_shards(
    spec: str, out: Path, *, key_from: KeyRule = "first-dot", prefix_keys: bool = False, reporter: Reporter
) -> PackSummary:
    """Writes each local shard anew, under its name, into another folder: samples in the order of their first members.

    Contents are copied as they are, and so is a classes.json beside them. What readers pass over is left out.

    Args:
        key_from: where a key ends in a file's name. By "last-dot", dots that are left in it become underscores.
        prefix_keys: put the shard's name before each key, for keys that begin anew in every shard.

    Raises:
        ShardError: a shard that is not there, or cannot be read to its end.
        OptionError: one that is behind a URL.
        OutputExistsError: a shard of this name is in `out`, or another classes.json.
        DuplicateKeyError, SampleError: a sample that has a member twice, or no image.
        DiskError: there is no room for them, or they cannot be written there.
    """
    shards = resolve_shards(spec)
    if far := next((s.url for s in shards if is_url(s.url)), None):
        raise OptionError(f"{far} is a URL; copy the shards to this machine first, since members are read in any order")
    names = [f"{_TAR_SUFFIX.sub('', Path(s.url).name)}.tar" for s in shards]
    with packing_into(out):
        for name in names:
            if (out / name).exists() or names.count(name) > 1:
                raise OutputExistsError(f"{out / name} exists or would be written twice; choose another folder")
        classes = Path(shards[0].url).parent / CLASSES_FILE
        if (
            (out / CLASSES_FILE).exists()
            and classes.exists()
            and classes.read_bytes() != (out / CLASSES_FILE).read_bytes()
        ):
            raise OutputExistsError(f"{out / CLASSES_FILE} is another list of classes; choose another folder")
        check_writable(out)
        check_space(out, sum(Path(s.url).stat().st_size for s in shards))
        left_out: Counter[str] = Counter()
        num_samples = 0
        reporter.start("packing", len(shards), "shards")
        with writing(out), new_shards(out) as folder:
            for shard, name in zip(shards, names, strict=True):
                prefix = f"{name.removesuffix('.tar')}/" if prefix_keys else ""
                num_samples += _regroup(shard, folder / name, key_from, prefix, left_out)
                reporter.advance(1)
            if classes.exists():
                shutil.copyfile(classes, folder / CLASSES_FILE)
    reporter.finish()
    return PackSummary(
        shards=[str(out / name) for name in names],
        num_samples=num_samples,
        num_classes=listed_classes(shards) or 0,
        left_out=dict(+left_out),
    )


def _regroup(shard: Shard, path: Path, key_from: KeyRule, prefix: str, left_out: Counter[str]) -> int:
    keys = set()
    with tarfile.open(path, "w") as new:
        for key, extension, content in _regrouped(shard, key_from, prefix, left_out):
            header = tarfile.TarInfo(f"{key}.{extension}")
            header.size = len(content)
            header.uname = header.gname = "dataltt"
            new.addfile(header, io.BytesIO(content))
            keys.add(key)
    return len(keys)


def _regrouped(
    shard: Shard, key_from: KeyRule, prefix: str, left_out: Counter[str]
) -> Iterator[tuple[str, str, bytes]]:
    """Yields key, extension and content of all members of samples, in the order in which keys come first."""
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    with opened_tar(shard) as tar:
        for member in tar:
            key, extension = _split(member.name, key_from)
            if key is None or not is_member(member):
                left_out["member of no sample"] += not member.isdir()
                continue
            if samples.setdefault(valid_key(prefix + key, shard), {}).setdefault(extension, member) is not member:
                raise DuplicateKeyError(prefix + key, shard.name, shard.name)
        for key, members in samples.items():
            if not any(extension in IMAGE_EXTENSIONS for extension in members):
                raise no_image(shard, key, members)
            for extension in sorted(members):
                content = tar.extractfile(members[extension])
                assert content is not None  # it is a file
                yield key, extension, content.read()


def _split(name: str, key_from: KeyRule) -> tuple[str | None, str]:
    """Key and extension of a member; no key where readers pass over it."""
    key, extension = base_plus_ext(name)
    if key is not None and key_from == "last-dot":
        path = PurePosixPath(name)
        extension = path.suffix[1:]
        key = key[: len(key) - len(key.rsplit("/", 1)[-1])] + path.stem.replace(".", "_")
    return key, (extension or "").lower()
