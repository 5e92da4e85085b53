"""Estimates of the bytes that a store or its parts take, before they are written. Tickets hardly compress."""

from __future__ import annotations

from ..layout import array_specs
from ..token_labels import TOP_K
from .commit import StoreSpec

_KEY_BYTES = 16  # of a key, compressed, in a part and in a store
_LABELS_SHARE = 2 / 3  # of token labels that is left after compression (docs/store-format.md)
_COPIES = 2  # the parts and the store, until the parts are removed


def selection_bytes(spec: StoreSpec, num_images: int) -> int:
    """Bytes that a selection of so many images takes at most: its parts and its store stand side by side."""
    specs = array_specs(
        num_images=num_images,
        num_views=spec.num_views,
        num_patches=spec.num_patches,
        num_shards=0,
        num_shard_name_bytes=0,
        has_ranks=spec.has_ranks,
        has_views=spec.has_views,
        has_counts=spec.adaptive is not None,
    )
    rows = (each for path, each in specs.items() if not path.startswith(("shards/", "keys/")))
    of_parts = spec.num_views * (2 * spec.num_shares + (0 if spec.has_ranks or not spec.adaptive else spec.num_patches))
    return num_images * (_COPIES * (sum(each.row_bytes for each in rows) + _KEY_BYTES) + of_parts)


def labelling_bytes(num_images: int, num_views: int, num_patches: int) -> int:
    """Bytes that a labelling takes at most: uint16 and float16 of five classes a patch, as parts and in the store."""
    return round(_COPIES * _LABELS_SHARE * num_images * num_views * num_patches * TOP_K * 4)
