"""Comparison of manifests, field by field: whether the tickets of two stores are of one kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

from ..errors import OptionError
from ..manifest import Manifest

_SHOWN_CHARS = 80
_HASH_CHARS = 12
# Pixels of replayed views are compared by `pixels_xxh3`, whatever versions drew them.
_NOT_COMPARED = frozenset({"augment.libraries", "decoder_libraries"})


class Difference(NamedTuple):
    """A field of the manifest in which two stores differ, and its values."""

    field: str
    first: Any
    second: Any

    def __str__(self) -> str:
        return f"{self.field} is {_shown(self.first)} in the first and {_shown(self.second)} in the second"


def _shown(value: Any) -> str:
    text = str(value)
    is_hash = isinstance(value, str) and len(value) == 64
    if is_hash:
        return f"{text[:_HASH_CHARS]}…"
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def differences(first: Manifest, second: Manifest) -> list[Difference]:
    """All differences in what decides tickets: grid, numbers of patches and views, selector, view."""
    return [*_plain(first, second), *selector_differences(first, second), *view_differences(first, second)]


def selector_differences(first: Manifest, second: Manifest) -> list[Difference]:
    """Differences in the selector alone, and in how adaptive tickets were cut."""
    found = list(_of_documents("selector", asdict(first.selector), asdict(second.selector)))
    adaptive = [{} if m.adaptive is None else asdict(m.adaptive) for m in (first, second)]
    return [*found, *_of_documents("adaptive", *adaptive)]


def view_differences(first: Manifest, second: Manifest) -> list[Difference]:
    """Differences in the view alone, but for the libraries that drew the same pixels."""
    if first.view.augment is not None and second.view.augment is not None:
        return list(_of_documents("view", _view(first), _view(second)))
    named = [_decoded(m) | {"augment": m.view.policy_name} for m in (first, second)]
    return list(_of_documents("view", *named))


def _decoded(manifest: Manifest) -> dict[str, Any]:
    view = asdict(manifest.view) | {"decoder": manifest.view.decoder_name}
    return {name: value for name, value in view.items() if name not in _NOT_COMPARED}


def _view(manifest: Manifest) -> dict[str, Any]:
    view = _decoded(manifest)
    augment = {f"augment.{name}": value for name, value in view.pop("augment").items()}
    return view | {name: value for name, value in augment.items() if name not in _NOT_COMPARED}


def _plain(first: Manifest, second: Manifest) -> Iterator[Difference]:
    for name in ("grid", "patch_px", "image_px", "num_keep", "num_views", "has_ranks"):
        values = getattr(first, name), getattr(second, name)
        if values[0] != values[1]:
            yield Difference(name, *values)
    cut = [None if m.thinned is None else m.thinned.selected_num_keep for m in (first, second)]
    if cut[0] != cut[1]:
        yield Difference("thinned.selected_num_keep", *cut)


def _of_documents(prefix: str, first: dict[str, Any], second: dict[str, Any]) -> Iterator[Difference]:
    for name in dict.fromkeys([*first, *second]):
        if first.get(name) != second.get(name):
            yield Difference(f"{prefix}.{name}", first.get(name), second.get(name))


def refuse_other_kind(
    first: str, theirs: Manifest, second: str, ours: Manifest, *, doing: str = "merged", without_ranks: str = ""
) -> None:
    """Refuses to put tickets of different kinds into one store.

    Args:
        first, second: the stores, for the sentence.
        doing: what cannot be done to them, its last words.
        without_ranks: the way out where they differ in having ranks alone.

    Raises:
        OptionError: naming every field that differs, with both values.
    """
    found = differences(theirs, ours)
    if not found:
        return
    listed = ", ".join(map(str, found))
    way_out = "tickets of one store are of one selector, view and ratio"
    if [d.field for d in found] == ["has_ranks"] and without_ranks:
        way_out = without_ranks
    raise OptionError(f"{first} and {second} cannot be {doing}: {listed}; {way_out}")
