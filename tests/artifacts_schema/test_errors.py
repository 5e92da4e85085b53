"""Errors cross process boundaries and say what they are about; the package needs no deep-learning framework."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys

import dataltt.artifacts_schema
import pytest
from dataltt.artifacts_schema import errors
from dataltt.artifacts_schema.errors import (
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

PROBLEMS = [
    Problem(where="grid", kind="missing", message="field required"),
    Problem(where="labels", kind="dtype", message="is int64, should be int32"),
]
ALL = [
    BadImageError("a.tar", "n01/é", "truncated", "pass `on_bad_image='skip'`"),
    BakedError("a/view-000/b.tar is not there; copy it again"),
    CheckpointError("weights.pt cannot be read"),
    DatalttError("something"),
    DiskError("runs/a cannot be written"),
    DuplicateKeyError("n01/é", "a.tar", "b.tar"),
    IncompletePartsError("no part for b.tar"),
    LoaderError("a loader process was killed"),
    LockedError("store.zarr is being written"),
    MissingTicketError("a.tar", "n01/é", "store.zarr"),
    ModelError("no such model"),
    OptionError("`num_views=0`"),
    OutputExistsError("store.zarr exists"),
    RanksError("a rank ended"),
    RemoteError("https://a.invalid is not a name that can be found"),
    SampleError("no label"),
    SchemaError("store.zarr", PROBLEMS),
    ShardError("a.tar ends early"),
    StoreNotFoundError("no store at x"),
    TicketMismatchError("grid 14x14, not 16x16"),
    UnknownKeyError("store.zarr", "n01/é", ["n01/e"]),
    UnsupportedVersionError("store.zarr", "3.0", ("1", "2")),
]


def test_the_list_above_has_every_error_and_the_package_exports_them() -> None:
    tree = {v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, DatalttError)}
    assert {type(e) for e in ALL} == tree
    assert {e.__name__ for e in tree} <= set(dataltt.artifacts_schema.__all__)


@pytest.mark.parametrize("error", ALL, ids=lambda e: type(e).__name__)
def test_pickle_keeps_class_message_and_fields(error: DatalttError) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        back = pickle.loads(pickle.dumps(error, protocol))
        assert type(back) is type(error)
        assert str(back) == str(error)
        assert back.args == error.args
        assert vars(back) == vars(error)


@pytest.mark.parametrize("error", ALL, ids=lambda e: type(e).__name__)
def test_copies_keep_message_and_fields(error: DatalttError) -> None:
    for back in (copy.copy(error), copy.deepcopy(error)):
        assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


def test_a_note_survives_pickling() -> None:
    error = ShardError("a.tar ends early")
    error.add_note("in worker 3")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["in worker 3"]


def test_an_error_of_another_process_is_raised_here_as_it_was() -> None:
    code = (
        "import pickle, sys\n"
        "from dataltt.artifacts_schema.errors import MissingTicketError\n"
        "sys.stdout.buffer.write(pickle.dumps(MissingTicketError('a.tar', 'k', 's.zarr')))\n"
    )
    sent = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
    back = pickle.loads(sent)
    assert isinstance(back, MissingTicketError)
    assert (back.shard, back.key, back.store) == ("a.tar", "k", "s.zarr")


def test_a_schema_error_names_the_store_and_every_problem() -> None:
    error = SchemaError("store.zarr", PROBLEMS)
    assert error.problems == tuple(PROBLEMS)
    assert str(error) == (
        "store.zarr is not a valid ticket store: grid: field required; labels: is int64, should be int32"
    )


def test_an_unsupported_version_is_a_schema_error_that_programs_can_tell() -> None:
    error = UnsupportedVersionError("store.zarr", "3.3", ("1", "2"))
    assert isinstance(error, SchemaError)
    assert [(p.where, p.kind) for p in error.problems] == [("schema_version", "unsupported_version")]
    assert "'3.3'" in str(error)
    assert "1.x and 2.x" in str(error)


@pytest.mark.parametrize(
    ("second", "text"), [("b.tar", "in a.tar and b.tar"), ("a.tar", "twice in a.tar")], ids=["across", "within"]
)
def test_a_duplicate_key_names_key_and_shards(second: str, text: str) -> None:
    error = DuplicateKeyError("n01/x", "a.tar", second)
    assert (error.key, error.first_shard, error.second_shard) == ("n01/x", "a.tar", second)
    assert f"'n01/x' occurs {text}" in str(error)


def test_a_missing_ticket_and_a_bad_image_name_shard_and_key() -> None:
    for error in (ALL[0], MissingTicketError("a.tar", "n01/é", "store.zarr")):
        assert "a.tar" in str(error)
        assert "'n01/é'" in str(error)


def test_the_package_imports_no_deep_learning_framework() -> None:
    code = (
        "import json, pkgutil, importlib, sys\n"
        "import dataltt.artifacts_schema as package\n"
        "for module in pkgutil.iter_modules(package.__path__):\n"
        "    importlib.import_module(f'{package.__name__}.{module.name}')\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    modules = set(json.loads(printed))
    assert "dataltt.artifacts_schema.verify" in modules
    assert not {"torch", "torchvision", "timm", "webdataset"} & modules
