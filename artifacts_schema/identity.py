"""Names and seals of a store: the checksum of its manifest, and the digest of what decides its tickets."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

# Arrays whose objects decide the tickets. Not labels, digests, shard names or token labels.
_DECIDING = frozenset({"tickets", "ranks", "views", "keys"})


def canonical_json(document: Any) -> bytes:
    """JSON of one spelling, UTF-8: keys sorted, no spaces, numbers in the fewest digits that give them again."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def checksum_of(document: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a manifest's canonical JSON without its `checksum`; fields of later versions count too."""
    rest = {name: value for name, value in document.items() if name != "checksum"}
    return hashlib.sha256(canonical_json(rest)).hexdigest()


def ticket_digest_of(document: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over what decides a manifest's tickets; fields that are null do not count.

    That is grid, num_keep, num_views, selector, view, dataset.keys_sha256, and the SHA-256 of the objects of tickets,
    ranks, views and keys.
    """
    deciding = {name: document[name] for name in ("grid", "num_keep", "num_views")}
    deciding |= {part: {k: v for k, v in document[part].items() if v is not None} for part in ("selector", "view")}
    deciding["keys_sha256"] = document["dataset"]["keys_sha256"]
    objects = document.get("objects", {})
    deciding["objects"] = {path: sha for path, sha in objects.items() if path.split("/")[0] in _DECIDING}
    return hashlib.sha256(canonical_json(deciding)).hexdigest()


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with its ticket digest and checksum."""
    digested = {**document, "ticket_digest": ticket_digest_of(document)}
    return {**digested, "checksum": checksum_of(digested)}


def version_of(document: Mapping[str, Any]) -> tuple[int, int]:
    """Major and minor schema version; (0, 0) where it is no version."""
    match = re.fullmatch(r"(\d{1,6})\.(\d{1,6})", str(document.get("schema_version")))
    return (int(match[1]), int(match[2])) if match else (0, 0)
