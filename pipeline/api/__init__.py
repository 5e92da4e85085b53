"""Data-level lottery tickets: which patches of an image does a vision transformer need?

    images ─► tickets_for(vit, images) ─► keep_indices ──────────────────┐
                                                                         ▼
    shards ─► select(SelectConfig) ─► STORE ─┬─ open ─► store[key]   net(images, keep_indices)
                                             │                           ▲       ▲
                                             ├─ dataset: shards ─────────┤       └─ net = prune(vit)
                                             ├─ join: ImageFolder, … ────┘
                                             │
                                             └─ train(TrainConfig) ─► RUN ─► evaluate(EvalConfig)

    prune        gives a timm ViT a forward pass that takes kept patches
    tickets_for  tickets of a batch of images, in memory
    select       stage one: tickets of all images of some shards, in a store on disk
    open         a store, by key or by rows
    dataset      shards and their tickets as batches, for a loop of one's own
    join         tickets on an ImageFolder or a Hugging Face set
    train        stage two, the whole of it; evaluate tests what it trained

    DatalttError is what all errors are: OptionError, ModelError, MissingTicketError, …

Names are imported when they are first asked for, so `import dataltt` alone costs nothing. docs/python.md walks through
them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .artifacts_schema.errors import (
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
    from .artifacts_schema.store import open_store as open
    from .stages.models.prune import prune
    from .stages.selection.config import SelectConfig
    from .stages.selection.in_memory import tickets_for
    from .stages.selection.select import select
    from .stages.training.config import EvalConfig, TrainConfig
    from .stages.training.evaluate import evaluate
    from .stages.training.ticket_batches import ticket_batches as dataset
    from .stages.training.ticket_images import join_tickets as join
    from .stages.training.train import train

    __version__: str

# Where each name comes from; the imports above say the same to type checkers.
_HOMES = {
    "artifacts_schema.errors": (
        "BadImageError BakedError CheckpointError DatalttError DiskError DuplicateKeyError IncompletePartsError "
        "LoaderError LockedError MissingTicketError ModelError OptionError OutputExistsError RanksError RemoteError "
        "SampleError SchemaError ShardError StoreNotFoundError TicketMismatchError UnknownKeyError "
        "UnsupportedVersionError"
    ),
    "artifacts_schema.store": "open=open_store",
    "stages.models.prune": "prune",
    "stages.selection.in_memory": "tickets_for",
    "stages.selection.config": "SelectConfig",
    "stages.selection.select": "select",
    "stages.training.config": "EvalConfig TrainConfig",
    "stages.training.evaluate": "evaluate",
    "stages.training.ticket_batches": "dataset=ticket_batches",
    "stages.training.ticket_images": "join=join_tickets",
    "stages.training.train": "train",
}
_HOME_OF = {
    entry.split("=")[0]: (home, entry.split("=")[-1]) for home, names in _HOMES.items() for entry in names.split()
}

__all__ = [
    "BadImageError",
    "BakedError",
    "CheckpointError",
    "DatalttError",
    "DiskError",
    "DuplicateKeyError",
    "EvalConfig",
    "IncompletePartsError",
    "LoaderError",
    "LockedError",
    "MissingTicketError",
    "ModelError",
    "OptionError",
    "OutputExistsError",
    "RanksError",
    "RemoteError",
    "SampleError",
    "SchemaError",
    "SelectConfig",
    "ShardError",
    "StoreNotFoundError",
    "TicketMismatchError",
    "TrainConfig",
    "UnknownKeyError",
    "UnsupportedVersionError",
    "__version__",
    "dataset",
    "evaluate",
    "join",
    "open",
    "prune",
    "select",
    "tickets_for",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = import_module(".stages.runtime.version", __name__).tool_version()
    elif name in _HOME_OF:
        home, attribute = _HOME_OF[name]
        value = getattr(import_module(f".{home}", __name__), attribute)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
