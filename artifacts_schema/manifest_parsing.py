"""Parsing of a manifest: validated whole, every problem reported with its place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .adaptive import Adaptive
from .errors import Problem, SchemaError, UnsupportedVersionError
from .identity import checksum_of, ticket_digest_of, version_of
from .manifest import MAX_VIEW_PATCHES, NEWEST_VERSION, Manifest, Selector

SUPPORTED_MAJORS = ("1", "2")
_MAX_PROBLEMS = 20  # that are listed
_MAX_PART = 100  # characters of a name that are shown
_ADAPTER = TypeAdapter(Manifest)
_OBJECT_PATH = re.compile(r"^(?:[A-Za-z0-9_.-]+/)*[A-Za-z0-9_.-]+$")


def parse_manifest(document: Any, store: str) -> Manifest:
    """Validates a manifest document whole; `store` is only named in errors.

    Fields unknown to this minor version are ignored.

    Raises:
        UnsupportedVersionError: the document's major version is not ours.
        SchemaError: anything else, with every problem found.
    """
    if not isinstance(document, Mapping):
        problem = Problem(where="manifest", kind="dict_type", message="should be a JSON object")
        raise SchemaError(store, [problem])
    version = document.get("schema_version")
    if isinstance(version, str) and version.split(".")[0] not in SUPPORTED_MAJORS:
        raise UnsupportedVersionError(store, version, SUPPORTED_MAJORS)
    if "checksum" in document and document["checksum"] != (_checksum(document) or "no text"):
        problem = Problem(
            where="checksum",
            kind="checksum",
            message="is not that of this manifest: it is damaged or was changed by hand; fetch the store again",
        )
        raise SchemaError(store, [problem])
    try:
        # JSON mode: strict about types (no "3" for 3), while lists may fill tuples.
        manifest = _ADAPTER.validate_json(json.dumps(document), strict=True)
    except ValidationError as error:
        problems = [
            Problem(
                where=".".join(map(_shown, detail["loc"])) or "manifest",
                kind=detail["type"],
                message=detail["msg"][0].lower() + detail["msg"][1:],
            )
            for detail in error.errors(include_url=False, include_context=False, include_input=False)[:_MAX_PROBLEMS]
        ]
        raise SchemaError(store, problems) from None
    problems = list(_cross_field_problems(manifest)) or list(_identity_problems(manifest, document))
    if problems:
        raise SchemaError(store, problems)
    return manifest


def _checksum(document: Mapping[str, Any]) -> str | None:
    """The checksum that a document should have; None of one with text that is no Unicode."""
    try:
        return checksum_of(document)
    except UnicodeEncodeError:
        return None


def _shown(part: int | str) -> str:
    """A part of a place in the document: on one line, and not long, whatever it is called there."""
    text = str(part)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= _MAX_PART else f"{text[:_MAX_PART]}…"


_AUGMENT_PROBLEM = "should give the name (text), version and seed (whole numbers) of the policy of replayed views"


def _names_a_policy(augment: Mapping[str, Any] | None) -> bool:
    kinds = {"name": str, "version": int, "seed": int}
    return augment is not None and all(type(augment.get(key)) is kind for key, kind in kinds.items())


def _cross_field_problems(m: Manifest) -> list[Problem]:
    checks = [
        (
            "num_views",
            m.num_views * m.num_patches <= MAX_VIEW_PATCHES,
            f"are more than {MAX_VIEW_PATCHES} patches an image",
        ),
        ("num_patches", m.num_patches == m.grid[0] * m.grid[1], "should be the product of grid"),
        ("image_px", m.image_px == m.grid[0] * m.patch_px, "should be grid[0] · patch_px"),
        ("num_keep", m.num_keep <= m.num_patches, "should be at most num_patches"),
        *(_cascade_checks(m) if m.selector.name is None else _scorer_checks(m.selector)),
        *(() if m.adaptive is None else _adaptive_checks(m, m.adaptive)),
        ("view.augment", m.view.kind == "center" or _names_a_policy(m.view.augment), _AUGMENT_PROBLEM),
        ("view.std", len(m.view.std) == len(m.view.mean), "should be as long as mean"),
        ("dataset.shards", len(set(m.dataset.shards)) == len(m.dataset.shards), "should not repeat a name"),
        (
            "objects",
            all(_OBJECT_PATH.match(p) and ".." not in p.split("/") for p in m.objects),
            "should name objects inside the store",
        ),
    ]
    return [Problem(where=where, kind="inconsistent", message=text) for where, ok, text in checks if not ok]


_Checks = list[tuple[str, bool, str]]


def _cascade_checks(m: Manifest) -> _Checks:
    s, counts, blocks = m.selector, m.selector.keep_counts, m.selector.drop_blocks
    return [
        ("selector.model", s.model is not None, "should name the model"),
        ("selector.weights_sha256", s.weights_sha256 is not None, "should be the digest of the weights"),
        ("selector.keep_counts", counts[-1:] == [_selected_num_keep(m)], "should end with num_keep"),
        ("selector.keep_counts", counts == sorted(counts, reverse=True), "should not increase"),
        ("selector.drop_blocks", len(blocks) == len(counts), "should have one entry per keep count"),
        ("selector.drop_blocks", blocks == sorted(set(blocks)), "should increase"),
        ("selector", (s.ratio is None) != (s.keep_rate is None), "should have one of ratio and keep_rate"),
    ]


def _scorer_checks(s: Selector) -> _Checks:
    """Checks of a selector that is not the cascade."""
    return [
        ("selector", not s.drop_blocks and not s.keep_counts, f"should have no drop blocks and keep counts: {s.name}"),
        ("selector.ratio", s.ratio is not None and s.keep_rate is None, "should be given, and no keep_rate"),
        ("selector.model", (s.model is None) == (s.weights_sha256 is None), "should go with weights_sha256"),
    ]


def _adaptive_checks(m: Manifest, a: Adaptive) -> _Checks:
    return [
        ("adaptive.least_keep", a.least_keep <= m.num_keep, "should be at most num_keep"),
        ("adaptive", m.thinned is None, "should not be cut down (thinned)"),
    ]


def _selected_num_keep(m: Manifest) -> int:
    return m.num_keep if m.thinned is None else m.thinned.selected_num_keep


def _identity_problems(m: Manifest, document: Mapping[str, Any]) -> Iterator[Problem]:
    """Finds what is wrong with the fields that came after 1.1."""
    version = version_of({"schema_version": m.schema_version})
    is_sealed = version >= (1, 2)
    checks = [
        ("schema_version", version != (0, 0), "should be two numbers, as in 1.2"),
        ("checksum", m.checksum is not None or not is_sealed, "is missing"),
        (
            "ticket_digest",
            m.ticket_digest == (ticket_digest_of(document) if is_sealed else None),
            "is not that of these tickets",
        ),
        ("sizes", set(m.sizes) == (set(m.objects) if is_sealed else set()), "should give the size of every object"),
        ("thinned", m.thinned is None or version >= (2, 0), f"needs schema version {NEWEST_VERSION}"),
        ("adaptive", m.adaptive is None or version >= (2, 0), f"needs schema version {NEWEST_VERSION}"),
        (
            "view.decoder",
            m.view.decoder_name == "pillow" or version >= (2, 0),
            f"needs schema version {NEWEST_VERSION}",
        ),
        ("selector.name", m.selector.name is None or version >= (2, 0), f"needs schema version {NEWEST_VERSION}"),
        ("thinned", m.num_keep < _selected_num_keep(m) or m.thinned is None, "should have kept more than num_keep"),
    ]
    return (Problem(where=where, kind="inconsistent", message=text) for where, ok, text in checks if not ok)
