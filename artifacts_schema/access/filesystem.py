"""File systems of remote places, by fsspec: how they are made, and how an object is streamed from one."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import fsspec

from ..errors import OptionError, RemoteError
from .location import Location

CONNECT_S = 10.0
READ_S = 60.0
_PIECE_BYTES = 16 << 20
_BLOCK_BYTES = 1 << 20

# By scheme: the extra of dataltt that has what opens it, and the module that must be there.
EXTRAS = {
    "http": ("http", "aiohttp"),
    "https": ("http", "aiohttp"),
    "s3": ("s3", "s3fs"),
    "s3a": ("s3", "s3fs"),
    "gs": ("gs", "gcsfs"),
    "gcs": ("gs", "gcsfs"),
    "hf": ("hf", "huggingface_hub"),
}


def scheme_of(place: str) -> str:
    """The scheme of a URL."""
    return place.split("://")[0].lower()


def file_system(location: Location) -> Any:
    """The fsspec file system of a URL.

    Raises:
        RemoteError: what opens it is not installed, or is not known.
        OptionError: a storage option that this file system does not have.
    """
    scheme = scheme_of(location.place)
    extra, module = EXTRAS.get(scheme, ("", ""))
    if module and importlib.util.find_spec(module) is None:
        raise RemoteError(f"{location} needs {module}, which is not installed; pip install 'dataltt[{extra}]'")
    try:
        kind = fsspec.get_filesystem_class(scheme)
    except (ValueError, ImportError) as error:
        raise RemoteError(
            f"{location} cannot be opened ({error}); dataltt opens folders, zip files, and http(s)://, s3://, gs:// "
            "and hf:// URLs"
        ) from None
    options = {key: _typed(value) for key, value in location.access.storage_options}
    _refuse_unknown(options, kind, scheme)
    return kind(**_with_limits(options, scheme), skip_instance_cache=True)


def _typed(value: str) -> Any:
    """An option's text as the value that is meant."""
    return {"true": True, "false": False}.get(value.lower(), value)


def _refuse_unknown(options: Mapping[str, Any], kind: Any, scheme: str) -> None:
    if scheme in ("http", "https"):
        known = {"token"}
    else:
        # What a class's own bases take counts too: gcsfs wraps its file system.
        found = (inspect.signature(k.__init__).parameters for k in kind.__mro__ if k is not object)
        known = {name for parameters in found for name in parameters} - {"self", "args", "kwargs", "storage_options"}
        known |= {"profile"} if scheme in ("s3", "s3a") else set()
    for name in options:
        if name not in known:
            raise OptionError(
                f"`storage_option='{name}=…'` is not known of {scheme}:// ; it has {', '.join(sorted(known))}"
            )


def _with_limits(options: dict[str, Any], scheme: str) -> dict[str, Any]:
    """The options with time-outs, where a file system takes them."""
    if scheme in ("http", "https"):
        import aiohttp

        client: dict[str, Any] = {
            "timeout": aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S),
            "trust_env": True,  # proxies, .netrc
        }
        if "token" in options:
            client["headers"] = {"Authorization": f"Bearer {options.pop('token')}"}
        return {**options, "client_kwargs": client}
    if scheme in ("s3", "s3a"):
        limits = {"connect_timeout": CONNECT_S, "read_timeout": READ_S, "retries": {"max_attempts": 2}}
        return {**options, "config_kwargs": limits}
    return options


def iter_content(fs: Any, path: str, size: int | None, max_bytes: int) -> Iterator[bytes]:
    """The bytes of an object in blocks, at most `max_bytes` of them (and one block more).

    Args:
        size: the object's bytes, where they are known.
    """
    if scheme_of(path) in ("http", "https"):
        read = 0
        # A size that is not 0 spares a HEAD request; streams do not look at it.
        with fs.open(path, "rb", block_size=0, size=size or 1) as stream:
            while read <= max_bytes and (block := stream.read(_BLOCK_BYTES)):
                read += len(block)
                yield block
        return
    stop = max_bytes if size is None else min(size, max_bytes)
    for first in range(0, stop, _PIECE_BYTES):
        block = fs.cat_file(path, start=first, end=min(first + _PIECE_BYTES, stop))
        yield block
        if len(block) < min(_PIECE_BYTES, stop - first):
            return  # shorter than it was said to be, or its size was not known
