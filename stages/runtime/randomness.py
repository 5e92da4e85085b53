"""Random draws from generators that are seeded by named things (seed, epoch, key, …), never by circumstance."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from ...artifacts_schema.strings import hash_string


def seed_of(*names: object) -> int:
    """A 63-bit seed that depends on the names alone, e.g. seed_of(0, "shuffle", epoch)."""
    return hash_string("\x1f".join(str(name) for name in names)) >> 1


def generator_of(*names: object) -> np.random.Generator:
    """A NumPy generator seeded by names."""
    return np.random.default_rng(seed_of(*names))


@contextmanager
def isolated_rng(*names: object, with_numpy: bool = True) -> Iterator[None]:
    """Seeds Python's, NumPy's and torch's global generators by names, and puts their states back afterwards.

    For library code that draws from the global generators (timm's augmentations).

    Args:
        with_numpy: NumPy's too; its state takes most of the time (a tenth of a millisecond).
    """
    python_state, torch_state = random.getstate(), torch.get_rng_state()
    numpy_state = np.random.get_state() if with_numpy else None
    seed = seed_of(*names)
    try:
        random.seed(seed)
        if numpy_state is not None:
            np.random.seed(seed & 0xFFFFFFFF)
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(python_state)
        if numpy_state is not None:
            np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
