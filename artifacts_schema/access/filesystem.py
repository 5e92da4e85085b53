"""File systems of remote places, by fsspec: how they are made, and how an object is streamed from one."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import fsspec

from ..errors import OptionError, RemoteError
from .location import Location

CONNECT_S = 10.0
READ_S = 60.0
_PIECE_BYTES = 16 << 20
_BLOCK_BYTES = 1 << 20

# By scheme: the extra of dataltt that has what opens it, and the module that must be there. Of hf: files are fetched
# over https, since huggingface_hub's own file system lists folders.
EXTRAS = {
    "http": ("http", "aiohttp"),
    "https": ("http", "aiohttp"),
    "s3": ("s3", "s3fs"),
    "s3a": ("s3", "s3fs"),
    "gs": ("gs", "gcsfs"),
    "gcs": ("gs", "gcsfs"),
    "hf": ("hf", "aiohttp"),
}
_HUB_URL = re.compile(
    r"hf://(?P<kind>datasets|spaces)/(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?(?:/(?P<path>.*))?"
)


def scheme_of(place: str) -> str:
    """The scheme of a URL, in small letters."""
    return place.split(":")[0].lower()


def file_system(location: Location) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        RemoteError: what opens it is not installed, or is not known.
        OptionError: a storage option that this file system does not have.
    """
    scheme = scheme_of(location.place)
    extra, module = EXTRAS.get(scheme, ("", ""))
    if module and importlib.util.find_spec(module) is None:
        raise RemoteError(f"{location} needs {module}, which is not installed; pip install 'dataltt[{extra}]'")
    options = {key: _typed(value) for key, value in location.access.storage_options}
    if scheme in ("http", "https"):
        _refuse_unknown(options, {"token"}, scheme)
        return _http(options.get("token")), location.place
    if scheme == "hf":
        _refuse_unknown(options, {"token", "endpoint"}, scheme)
        return _http(options.get("token") or _hub_token()), hub_url(location.place, options.get("endpoint"))
    if scheme in ("s3", "s3a"):
        return _s3(options), location.place
    if scheme in ("gs", "gcs"):
        from gcsfs.core import GCSFileSystem  # the plain one: the extended one asks about the bucket every time

        # It logs each try with its traceback; who has set up logging sees them still.
        logging.getLogger("gcsfs").addHandler(logging.NullHandler())
        _refuse_unknown(options, {"endpoint_url", "project", "requester_pays", "token"}, scheme)
        return GCSFileSystem(**options, skip_instance_cache=True), location.place
    try:
        fs, path = fsspec.core.url_to_fs(location.place, **options)
    except (ValueError, ImportError, TypeError, OSError) as error:
        raise RemoteError(
            f"{location} cannot be opened ({error}); dataltt opens folders, zip files, and http(s)://, s3://, gs:// "
            "and hf:// URLs"
        ) from None
    return fs, path


def hub_url(place: str, endpoint: str | None = None) -> str:
    """The https URL of a place in a dataset repository of the Hugging Face hub.

    Raises:
        RemoteError: it names none.
    """
    match = _HUB_URL.fullmatch(place)
    if match is None:
        raise RemoteError(f"{place} names no dataset repository; write hf://datasets/OWNER/NAME[@REVISION][/FOLDER]")
    base = endpoint or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    parts = [
        base.rstrip("/"),
        match["kind"],
        match["repo"],
        "resolve",
        match["revision"] or "main",
        match["path"] or "",
    ]
    return "/".join(parts).rstrip("/")


def _hub_token() -> str | None:
    if importlib.util.find_spec("huggingface_hub") is None:
        return os.environ.get("HF_TOKEN")
    from huggingface_hub import get_token

    token: str | None = get_token()
    return token


def _typed(value: str) -> Any:
    """An option's text as the value that is meant."""
    return {"true": True, "false": False}.get(value.lower(), value)


def _refuse_unknown(options: Mapping[str, Any], known: set[str], scheme: str) -> None:
    for name in options:
        if name not in known:
            raise OptionError(
                f"`storage_option='{name}=…'` is unknown for {scheme} URLs; known is {', '.join(sorted(known))}"
            )


def _http(token: str | None) -> Any:
    import aiohttp
    from fsspec.implementations.http import HTTPFileSystem

    client: dict[str, Any] = {
        # No limit in all: a large object may take its time, as long as something comes.
        "timeout": aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S),
        "trust_env": True,  # proxies, .netrc
    }
    if token:
        client["headers"] = {"Authorization": f"Bearer {token}"}
    return HTTPFileSystem(client_kwargs=client, skip_instance_cache=True)


def _s3(options: Mapping[str, Any]) -> Any:
    from s3fs import S3FileSystem

    known = {"anon", "endpoint_url", "key", "secret", "token", "profile", "requester_pays", "use_ssl"}
    _refuse_unknown(options, known, "s3")
    limits = {"connect_timeout": CONNECT_S, "read_timeout": READ_S, "retries": {"total_max_attempts": 1}}
    fs = S3FileSystem(**options, config_kwargs=limits, skip_instance_cache=True)
    fs.retries = 1  # what fails is tried again in one place, remote.py
    return fs


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
