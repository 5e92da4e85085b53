"""Failures of remote places, of many libraries, as one sentence each with the way out."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Any

from ..errors import RemoteError
from .filesystem import scheme_of
from .location import Location

_NOT_FOUND = frozenset({404, 410})
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_CREDENTIALS = {
    "http": "give `storage_option='token=…'`, or a machine's user and password in ~/.netrc",
    "s3": "they were looked for in `storage_option` (key=…, secret=…, profile=…), $AWS_ACCESS_KEY_ID, $AWS_PROFILE and "
    "~/.aws; a public bucket needs `storage_option='anon=true'`",
    "gs": "they were looked for in `storage_option` (token=…), $GOOGLE_APPLICATION_CREDENTIALS and gcloud's own; a "
    "public bucket needs `storage_option='token=anon'`",
    "hf": "log in with: hf auth login; or give $HF_TOKEN, or `storage_option='token=…'`; access to a gated "
    "repository is asked for on its page",
}
_HOSTS = {
    "s3": "S3",
    "s3a": "S3",
    "gs": "storage.googleapis.com",
    "gcs": "storage.googleapis.com",
    "hf": "huggingface.co",
}
_FAMILIES = {"https": "http", "s3a": "s3", "gcs": "gs"}
# Names of exceptions, since the libraries that have them may not be there.
_NO_CREDENTIALS = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "RefreshError"}
)
_BAD_URL = frozenset({"InvalidUrlClientError", "InvalidURL", "ParamValidationError"})
_NO_NAME = frozenset({"ClientConnectorDNSError", "NameResolutionError"})
_NO_TLS = frozenset({"ClientConnectorCertificateError", "ClientConnectorSSLError", "ClientSSLError", "SSLError"})
_TOO_SLOW = frozenset(
    {"ReadTimeoutError", "ConnectTimeoutError", "ServerTimeoutError", "ReadTimeout", "ConnectTimeout"}
)
_NO_ANSWER = frozenset({"EndpointConnectionError", "ConnectionClosedError", "ClientConnectorError"})
# Top packages of the libraries that fail.
_LIBRARIES = frozenset({"aiohttp", "aiobotocore", "botocore", "gcsfs", "google", "requests"})


def failure_of(error: BaseException, path: str, location: Location) -> RemoteError | type[FileNotFoundError] | None:
    """The failure that an exception of a file system means: `FileNotFoundError`, a `RemoteError`, or None if it is none
    of theirs."""
    status = _status(error)
    names = {type(each).__name__ for each in _chain(error)}
    family = _FAMILIES.get(scheme_of(path), scheme_of(path))
    if "ProfileNotFound" in names:
        return RemoteError(f"{path} cannot be read: {_reason(error)}; {_CREDENTIALS['s3']}")
    if names & _NO_CREDENTIALS:
        return RemoteError(f"{path} needs credentials, and there are none; {_CREDENTIALS.get(family, 'give them')}")
    if names & _BAD_URL or _is_bad_url(error):
        return RemoteError(f"{path} cannot be asked for ({_reason(error)}); check the URL and `storage_option`")
    if status in (401, 403) or isinstance(error, PermissionError) or str(error).startswith("Forbidden"):
        hidden = " or is not there" if family in ("s3", "hf") else ""  # which these tell only to who may know
        withheld = RemoteError(
            f"{path} may not be read with these credentials{hidden}{_shown(status, error)}; "
            f"{_CREDENTIALS.get(family, 'give others')}"
        )
        withheld.is_withheld = True
        return withheld
    if isinstance(error, FileNotFoundError) or status in _NOT_FOUND:
        return FileNotFoundError
    if names & _NO_TLS or any(isinstance(each, ssl.SSLError) for each in _chain(error)):
        return RemoteError(
            f"{_host(location)} has a certificate that cannot be trusted ({_tls_reason(error)}); check the name, or "
            f"give the authority's certificate by ${'AWS_CA_BUNDLE' if family == 's3' else 'SSL_CERT_FILE'}"
        )
    if names & _NO_NAME or any(isinstance(each, socket.gaierror) for each in _chain(error)):
        return _unreachable(f"{_host(location)} is not a name that can be found; check the URL and the network")
    if _is_refused(error):
        return _unreachable(f"{_host(location)} refuses connections; check the URL, the port, and that the server runs")
    if names & _TOO_SLOW or any(isinstance(each, TimeoutError | asyncio.TimeoutError) for each in _chain(error)):
        return _unreachable(f"{_host(location)} did not answer in time ({path}); try again later")
    if names & _NO_ANSWER:
        return _unreachable(f"{_host(location)} cannot be reached ({_reason(error)}); check the URL and the network")
    if status is not None:
        failure = RemoteError(f"{path} could not be read: the server answered {status}; try again later")
        failure.is_unreachable = status >= 500  # the server is not at work
        return failure
    if isinstance(error, OSError) or _is_of_a_library(error):
        return RemoteError(f"{path} broke off while it was read{_cut_reason(error)}; try again")
    return None


def is_passing(error: BaseException, scheme: str) -> bool:
    """Tells whether the same request may do better a moment later."""
    if scheme in ("gs", "gcs"):
        return False  # gcsfs has tried six times
    status = _status(error)
    if status is not None:
        return status in _PASSING
    names = {type(each).__name__ for each in _chain(error)}
    lasting = _NO_CREDENTIALS | _NO_TLS | _BAD_URL | {"ProfileNotFound"}
    return not (names & lasting or isinstance(error, PermissionError | ValueError))


def _unreachable(message: str) -> RemoteError:
    error = RemoteError(message)
    error.is_unreachable = True
    return error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and those that it comes from."""
    seen = 0
    while error is not None and seen < 16:
        yield error
        inner = getattr(error, "os_error", None) or getattr(error, "error", None)
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__
        seen += 1


def _status(error: BaseException) -> int | None:
    """The HTTP status that an exception carries."""
    for each in _chain(error):
        if type(each).__module__ == "aiohttp.http_exceptions":
            continue  # its `code` is no server's: 400 where a body was cut off
        response: Any = getattr(each, "response", None)
        found = getattr(each, "status", None) or getattr(each, "code", None) or getattr(response, "status_code", None)
        if isinstance(response, dict):
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if isinstance(found, int | str) and str(found).isdecimal() and 400 <= int(found) < 600:
            return int(found)
    return None


def _is_of_a_library(error: BaseException) -> bool:
    return any(kind.__module__.split(".")[0] in _LIBRARIES for kind in type(error).__mro__)


def _is_refused(error: BaseException) -> bool:
    return any(
        isinstance(each, ConnectionRefusedError) or getattr(each, "errno", None) == errno.ECONNREFUSED
        for each in _chain(error)
    ) or "Connection refused" in str(error)


def _host(location: Location) -> str:
    options = dict(location.access.storage_options)
    endpoint = options.get("endpoint_url") or options.get("endpoint")
    if scheme_of(location.place) == "hf":
        endpoint = endpoint or os.environ.get("HF_ENDPOINT")
    return endpoint or _HOSTS.get(scheme_of(location.place)) or "/".join(location.place.split("/")[:3])


def _is_bad_url(error: BaseException) -> bool:
    """Tells whether it is of a URL's port or an endpoint; the libraries say so by the text alone."""
    return type(error) is ValueError and str(error).startswith(("Port ", "Invalid endpoint"))


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().split("\n")]
    if lines[0] == "Parameter validation failed:":
        return lines[-1].split(": ")[0]  # without the pattern that a name should match
    return lines[0][:200] or "no reason is given"


def _tls_reason(error: BaseException) -> str:
    found = re.search(r"certificate verify failed: ([^(\]]+)", str(error))
    return found[1].strip() if found else "there is no agreement on how to encrypt"


def _cut_reason(error: BaseException) -> str:
    """Our own reason, or none: what the libraries say here are names of their classes."""
    return f" ({error})" if type(error) is ConnectionError else ""


def _shown(status: int | None, error: BaseException) -> str:
    """The answer of a server: its status and, where S3 says more, its code."""
    response: Any = next((each.response for each in _chain(error) if hasattr(each, "response")), None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    more = f", {code}" if code and code not in ("AccessDenied", str(status)) else ""
    return "" if status is None else f" (the server answers {status}{more})"
