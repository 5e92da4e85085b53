"""What is on disk: the ticket store, its parts, its manifest. No torch."""

from .errors import (
    BadImageError,
    CheckpointError,
    DatalttError,
    DuplicateKeyError,
    IncompletePartsError,
    MissingTicketError,
    ModelError,
    OptionError,
    OutputExistsError,
    Problem,
    SampleError,
    SchemaError,
    ShardError,
    StoreNotFoundError,
    TicketMismatchError,
    UnsupportedVersionError,
)
from .manifest import SCHEMA_VERSION, Dataset, Labeller, Manifest, Selector, SkippedSample, View, parse_manifest
from .store import TicketStore, read_manifest
from .token_labels import LabelMaps

__all__ = [
    "SCHEMA_VERSION",
    "BadImageError",
    "CheckpointError",
    "DatalttError",
    "Dataset",
    "DuplicateKeyError",
    "IncompletePartsError",
    "LabelMaps",
    "Labeller",
    "Manifest",
    "MissingTicketError",
    "ModelError",
    "OptionError",
    "OutputExistsError",
    "Problem",
    "SampleError",
    "SchemaError",
    "Selector",
    "ShardError",
    "SkippedSample",
    "StoreNotFoundError",
    "TicketMismatchError",
    "TicketStore",
    "UnsupportedVersionError",
    "View",
    "parse_manifest",
    "read_manifest",
]
