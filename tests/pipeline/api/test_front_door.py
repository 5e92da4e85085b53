"""`import dataltt`: a short list of names, light until they are used."""

from __future__ import annotations

import ast
import inspect
import json
import sys
from importlib.metadata import version

import dataltt
import pytest
from dataltt.artifacts_schema import errors

from ...helpers import run_process

_PUBLIC = {
    "__version__",
    # reading, selecting, computing on tickets
    "open",
    "tickets_for",
    "prune",
    "dataset",
    "join",
    # the two stages
    "select",
    "train",
    "evaluate",
    "SelectConfig",
    "TrainConfig",
    "EvalConfig",
    # errors
    "BadImageError",
    "BakedError",
    "CheckpointError",
    "DatalttError",
    "DiskError",
    "DuplicateKeyError",
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
    "ShardError",
    "StoreNotFoundError",
    "TicketMismatchError",
    "UnknownKeyError",
    "UnsupportedVersionError",
}


def test_this_is_public_and_nothing_else() -> None:
    assert set(dataltt.__all__) == _PUBLIC
    assert len(dataltt.__all__) == len(_PUBLIC)
    assert dir(dataltt) == sorted(_PUBLIC)
    tree = {n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, errors.DatalttError)}
    assert tree <= _PUBLIC


@pytest.mark.parametrize("name", sorted(_PUBLIC))
def test_every_name_is_there_and_documented(name: str) -> None:
    value = getattr(dataltt, name)
    if name == "__version__":
        assert value == version("dataltt")
        return
    assert callable(value)
    assert inspect.getdoc(value)


def test_another_name_is_not() -> None:
    with pytest.raises(AttributeError, match="module 'dataltt' has no attribute 'ticket'"):
        dataltt.ticket  # noqa: B018


def test_type_checkers_are_told_the_same_homes() -> None:
    tree = ast.parse(inspect.getsource(dataltt))
    block = next(n for n in tree.body if isinstance(n, ast.If))
    imports = [n for n in block.body if isinstance(n, ast.ImportFrom)]
    told = {a.asname or a.name: (n.module, a.name) for n in imports for a in n.names}
    assert told == dataltt._HOME_OF
    assert set(told) | {"__version__"} == _PUBLIC


def test_the_map_names_every_function() -> None:
    assert dataltt.__doc__ is not None
    for name in _PUBLIC - {"__version__"}:
        if name[0].islower():
            assert f"\n    {name} " in dataltt.__doc__ or name == "evaluate"
    assert all(len(line) <= 120 for line in dataltt.__doc__.splitlines())


def test_importing_it_imports_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules); import dataltt; dir(dataltt); import json; "
        "print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names))))"
    )
    result = run_process([sys.executable, "-c", code])
    assert result.code == 0, result.err
    assert json.loads(result.out) == ["dataltt"]


def test_errors_and_stores_need_no_torch() -> None:
    code = "import sys, dataltt; dataltt.open, dataltt.OptionError; print('torch' in sys.modules)"
    result = run_process([sys.executable, "-c", code])
    assert (result.code, result.out.strip()) == (0, "False"), result.err


def test_the_module_is_the_command_line() -> None:
    result = run_process([sys.executable, "-m", "dataltt", "--version"])
    assert (result.code, result.out.strip()) == (0, f"dataltt {version('dataltt')}"), result.err
