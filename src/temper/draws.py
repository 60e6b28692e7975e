"""Named random generators: every draw is a function of (seed, purpose, item), never of global state.

Two pieces of code that draw for different purposes can neither disturb each other nor depend on the order in which
they run, on the number of workers or on how much randomness was used before.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["generator", "key_of", "torch_generator"]


def key_of(seed: int, *key: str | int) -> int:
    """Return a 64-bit integer that depends on the seed and on every part of the key.

    Parts are separated so that ``("a", "bc")`` and ``("ab", "c")`` differ, and ``1`` differs from ``"1"``.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *key):
        digest.update(f"{type(part).__name__}:{part}\x1f".encode())
    return int.from_bytes(digest.digest(), "big")


def generator(seed: int, *key: str | int) -> np.random.Generator:
    """Return a NumPy generator for one purpose, e.g. ``generator(seed, "pairing", epoch)``."""
    return np.random.Generator(np.random.PCG64(key_of(seed, *key)))


def torch_generator(seed: int, *key: str | int) -> torch.Generator:
    """Return a CPU torch generator for one purpose."""
    import torch

    # torch takes a signed 64-bit seed
    return torch.Generator().manual_seed(key_of(seed, *key) >> 1)
