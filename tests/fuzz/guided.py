"""One fuzzing test, its inputs guided by coverage: python -m tests.fuzz.guided TEST [options of libFuzzer]."""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-not-found, unused-ignore]

with atheris.instrument_imports(include=["dataltt.artifacts_schema"]):
    from . import test_fuzz_stores

if __name__ == "__main__":
    test = getattr(test_fuzz_stores, sys.argv.pop(1))
    atheris.Setup(sys.argv, test.hypothesis.fuzz_one_input)
    atheris.Fuzz()
