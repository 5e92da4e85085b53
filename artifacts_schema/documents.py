"""Bounds of JSON documents that come from strangers: of bytes, and of values, which take far more in memory."""

from __future__ import annotations

MAX_DOCUMENT_BYTES = 64 << 20
# One value takes a few bytes in a document and up to a hundred in memory; an object that is named takes two or more, so
# this is enough for a billion images.
MAX_VALUES = 3_000_000


def too_large(content: bytes) -> str | None:
    """Says how a document is larger than any that dataltt writes, before it is parsed; None if it is not."""
    if len(content) > MAX_DOCUMENT_BYTES:
        return f"is larger than {MAX_DOCUMENT_BYTES} bytes"
    if sum(map(content.count, (b",", b"[", b"{"))) > MAX_VALUES:
        return f"has more than {MAX_VALUES} values"
    return None
