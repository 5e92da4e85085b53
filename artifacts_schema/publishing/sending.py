"""Requests to remote places: tried again where that may help, and failing in one sentence."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TypeVar

from ..access.failures import failure_of, is_passing
from ..access.filesystem import scheme_of
from ..access.location import Location
from ..errors import DatalttError, RemoteError

T = TypeVar("T")

_TRIES = 4
_FIRST_WAIT_S = 0.5
# Failures are worded for reading, which is what all but this room does.
_WORDS = {
    "may not be read": "may not be written",
    "could not be read": "could not be written",
    "broke off while it was read": "broke off while it was sent",
    " or is not there": "",
}


def tried(attempt: Callable[[], T], path: str, location: Location, *, writes: bool = False) -> T:
    """Result of an attempt; what may pass is tried again, after longer and longer waits.

    Args:
        path: the URL that it is about, for the error's sentence.
        writes: whether it sends something.

    Raises:
        FileNotFoundError: it is not there.
        RemoteError: anything else that a place or the network does.
    """
    for number in range(1, _TRIES + 1):
        try:
            return attempt()
        except (FileNotFoundError, DatalttError):
            raise
        except Exception as error:  # the clients' own, of many libraries; bugs of ours are raised as they are
            failure = failure_of(error, path, location)
            if failure is None:
                raise
            if not isinstance(failure, RemoteError):
                raise FileNotFoundError(path) from error
            if number == _TRIES or not is_passing(error, scheme_of(path)):
                raise (_of_writing(failure) if writes else failure) from error
        time.sleep(_FIRST_WAIT_S * 2 ** (number - 1))
    raise AssertionError("unreachable")


def _of_writing(failure: RemoteError) -> RemoteError:
    text = str(failure)
    for read, written in _WORDS.items():
        text = text.replace(read, written)
    return RemoteError(re.sub("; a public bucket needs .*", "", text))
