"""Requests that send something, which fail in other words than those that read."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from ..access.location import Location
from ..access.trying import tried
from ..errors import RemoteError

T = TypeVar("T")

# Failures are worded for reading, which is what all but this room does.
_WORDS = {
    "may not be read": "may not be written",
    "could not be read": "could not be written",
    "broke off while it was read": "broke off while it was sent",
    " or is not there": "",
}


def sent(attempt: Callable[[], T], path: str, location: Location) -> T:
    """The result of an attempt to send something to a URL, tried again as `tried` has it.

    Raises:
        FileNotFoundError: it is not there.
        RemoteError: anything else that a place or the network does.
    """
    try:
        return tried(attempt, path, location)
    except RemoteError as failure:
        raise _of_writing(failure) from failure


def _of_writing(failure: RemoteError) -> RemoteError:
    text = str(failure)
    for read, written in _WORDS.items():
        text = text.replace(read, written)
    return RemoteError(re.sub("; a public bucket needs .*", "", text))
