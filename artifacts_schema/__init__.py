"""Format of what is on disk: the ticket store, its parts, its manifest. No torch.

Names are imported when they are first asked for, so that errors and option types cost nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .access.location import Access, Location
    from .errors import (
        BadImageError,
        BakedError,
        CheckpointError,
        DatalttError,
        DiskError,
        DuplicateKeyError,
        IncompletePartsError,
        LoaderError,
        LockedError,
        MissingTicketError,
        ModelError,
        OptionError,
        OutputExistsError,
        Problem,
        RanksError,
        RemoteError,
        SampleError,
        SchemaError,
        ShardError,
        StoreNotFoundError,
        TicketMismatchError,
        UnknownKeyError,
        UnsupportedVersionError,
    )
    from .image_tickets import ImageTickets
    from .manifest import (
        SCHEMA_VERSION,
        Dataset,
        Labeller,
        Manifest,
        Publication,
        Selector,
        SkippedSample,
        Thinned,
        View,
    )
    from .manifest_file import read_manifest
    from .manifest_parsing import parse_manifest
    from .store import TicketStore, open_store
    from .token_labels import LabelMaps

_HOMES = {
    "access.location": "Access Location",
    "errors": (
        "BadImageError BakedError CheckpointError DatalttError DiskError DuplicateKeyError IncompletePartsError "
        "LoaderError LockedError MissingTicketError ModelError OptionError OutputExistsError Problem RanksError "
        "RemoteError SampleError SchemaError ShardError StoreNotFoundError TicketMismatchError UnknownKeyError "
        "UnsupportedVersionError"
    ),
    "image_tickets": "ImageTickets",
    "manifest": "SCHEMA_VERSION Dataset Labeller Manifest Publication Selector SkippedSample Thinned View",
    "manifest_file": "read_manifest",
    "manifest_parsing": "parse_manifest",
    "store": "TicketStore open_store",
    "token_labels": "LabelMaps",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "SCHEMA_VERSION",
    "Access",
    "BadImageError",
    "BakedError",
    "CheckpointError",
    "DatalttError",
    "Dataset",
    "DiskError",
    "DuplicateKeyError",
    "ImageTickets",
    "IncompletePartsError",
    "LabelMaps",
    "Labeller",
    "LoaderError",
    "Location",
    "LockedError",
    "Manifest",
    "MissingTicketError",
    "ModelError",
    "OptionError",
    "OutputExistsError",
    "Problem",
    "Publication",
    "RanksError",
    "RemoteError",
    "SampleError",
    "SchemaError",
    "Selector",
    "ShardError",
    "SkippedSample",
    "StoreNotFoundError",
    "Thinned",
    "TicketMismatchError",
    "TicketStore",
    "UnknownKeyError",
    "UnsupportedVersionError",
    "View",
    "open_store",
    "parse_manifest",
    "read_manifest",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
