"""How many scores have which size: counts by the upper bits of the number, which add up over tensors, shards and processes.

key(s) = bits of float32 |s|          (of numbers that are not negative, bits are ordered as the numbers are)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from temper.errors import ModelError

__all__ = ["ABOVE_ALL", "Histogram", "by_size", "counted", "end_of", "keys_of"]

ABOVE_ALL: Final = 0x7FFFFFFF
"""A key that no score has."""

_AT_ONCE: Final = 2**16
"""Scores that are looked at together: what lies in the cache of one core."""
_FIRST_NOT_FINITE: Final = 0x7F80
"""Upper half of the bits of infinity; those of NaN are not below."""


def keys_of(scores: Tensor) -> Iterator[np.ndarray]:
    """Yield the keys of a tensor in its order, piece by piece, int32."""
    flat = scores.detach().reshape(-1)
    for start in range(0, len(flat), _AT_ONCE):
        piece = flat[start : start + _AT_ONCE].to("cpu", torch.float32)
        yield piece.numpy().view(np.int32) & ABOVE_ALL


def counted(values: np.ndarray, bins: int) -> np.ndarray:
    """Return how often each number from 0 up to `bins` occurs, int64."""
    # numpy's bincount widens its input first and takes twice the time
    counts: np.ndarray = torch.bincount(torch.from_numpy(values), minlength=bins).numpy()
    return counts


def end_of(counts: np.ndarray, wanted: int) -> tuple[int, int]:
    """Return the bin in which the largest `wanted` end, and how many of it are wanted."""
    if not wanted:
        return 0, 0
    from_top = np.cumsum(counts[::-1])
    place = int(np.searchsorted(from_top, wanted))
    last = len(counts) - 1 - place
    return last, wanted - int(from_top[place] - counts[last])


class Histogram:
    """How many scores have each bfloat16 pattern of |s|: 32,768 patterns, in the order of the values they stand for.

    Args:
        counts: Counts to begin with, as `counts` of another.

    Attributes:
        counts: One count a pattern, int64, shape (32768,).

    Example:
        >>> one, two = Histogram(), Histogram()
        >>> one.add("a", torch.tensor([1.0, -1.0, 0.0]))
        >>> two.add("b", torch.tensor([2.0]))
        >>> one.merge(two).total, int(one.counts[0x3F80])  # 0x3F80 is the pattern of 1.0
        (4, 2)
    """

    BINS: Final = 2**15

    def __init__(self, counts: np.ndarray | None = None) -> None:
        self.counts = np.zeros(self.BINS, np.int64) if counts is None else counts.astype(np.int64)

    @property
    def total(self) -> int:
        """Return how many scores were counted."""
        return int(self.counts.sum())

    def add(self, name: str, scores: Tensor) -> None:
        """Count the scores of a tensor.

        Raises:
            ModelError: A score is not finite.
        """
        counts = np.zeros_like(self.counts)
        for keys in keys_of(scores):
            counts += counted(keys >> 16, self.BINS)
        wrong = int(counts[_FIRST_NOT_FINITE:].sum())
        if wrong:
            raise ModelError(
                f"the scores of {name}: {wrong} of {scores.numel()} are NaN or infinite, so they cannot be ranked. Score in float32 "
                "(model.dtype=float32) and look for the row whose loss is not finite."
            )
        self.counts += counts

    def merge(self, other: Histogram) -> Histogram:
        """Add the counts of another one and return this one."""
        self.counts += other.counts
        return self


def by_size(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """Return how many scores lie in each octave of |s|, and how many of those are selected, as JSON values.

    Args:
        scores: Parameter name to its scores; one tensor is held at a time.
        masks: Parameter name to a boolean tensor of its shape; one without an entry is not selected.

    Returns:
        `log2` has the edges of the octaves, one more than there are `counts` and `selected`; `zeros` and `zeros_selected` count
        what has no logarithm.

    Example:
        >>> by_size({"a": torch.tensor([1.0, -1.5, 4.0, 0.0])}, {"a": torch.tensor([False, True, True, False])})["counts"]
        [2, 0, 1]
    """
    all_O, chosen_O = np.zeros((2, 256), np.int64)
    zeros = zeros_chosen = 0
    for name in scores:
        tensor = scores[name]
        mask = masks[name].reshape(-1).cpu().numpy() if masks is not None and name in masks else None
        start = 0
        for keys in keys_of(tensor):
            octaves = keys >> 23
            all_O += counted(octaves, 256)
            zeros += len(keys) - int(np.count_nonzero(keys))
            if mask is not None:
                own = mask[start : start + len(keys)]
                chosen_O += counted(octaves[own], 256)
                zeros_chosen += int(np.count_nonzero(own)) - int(np.count_nonzero(keys[own]))
            start += len(keys)
    all_O[0] -= zeros
    chosen_O[0] -= zeros_chosen
    used = np.flatnonzero(all_O)
    first, last = (int(used[0]), int(used[-1])) if len(used) else (127, 126)
    return {
        # exponents are stored with 127 added; those of 0 are the numbers below the smallest normal one
        "log2": [octave - 127 if octave else -149 for octave in range(first, last + 2)],
        "counts": all_O[first : last + 1].tolist(),
        "selected": chosen_O[first : last + 1].tolist(),
        "zeros": zeros,
        "zeros_selected": zeros_chosen,
    }
