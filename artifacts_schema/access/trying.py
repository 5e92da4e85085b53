"""Requests to remote places: tried again where that may help, and failing in one sentence."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ..errors import DatalttError
from .failures import failure_of, is_passing
from .filesystem import scheme_of
from .location import Location

T = TypeVar("T")

TRIES = 4
_FIRST_WAIT_S = 0.5


def tried(attempt: Callable[[], T], path: str, location: Location, *, tries: int = TRIES) -> T:
    """The result of an attempt; what may pass is tried again, after longer and longer waits.

    Args:
        path: the URL that it is about, for the error's sentence.

    Raises:
        FileNotFoundError: it is not there.
        RemoteError: anything else that a place or the network does.
    """
    for number in range(1, tries + 1):
        try:
            return attempt()
        except (FileNotFoundError, DatalttError):
            raise
        except Exception as error:  # the clients' own, of many libraries; bugs of ours are raised as they are
            failure = failure_of(error, path, location)
            if failure is None:
                raise
            if failure is FileNotFoundError:
                raise FileNotFoundError(path) from error
            if number == tries or not is_passing(error, scheme_of(path)):
                raise failure from error
        time.sleep(_FIRST_WAIT_S * 2 ** (number - 1))
    raise AssertionError("unreachable")
