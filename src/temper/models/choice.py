"""What a ranking leaves: for a ratio, which weights were chosen, as masks that are computed when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from temper.errors import ModelError

__all__ = ["Choice", "Shards", "budget"]


def budget(ratio: float, count: int) -> int:
    """Return how many of `count` weights a ratio selects: ⌊ρ·count⌋, where a product that is a whole number but for rounding is one.

    Raises:
        ModelError: The ratio is not in [0, 1].

    Example:
        >>> budget(0.29, 100), int(0.29 * 100)
        (29, 28)
    """
    if not 0 <= ratio <= 1:
        raise ModelError(f"ratio = {ratio}: is the share of weights that may change; it must be in [0, 1]")
    return math.floor(round(ratio * count, 6))


class Choice(Mapping[str, Tensor]):
    """The masks of one ratio: parameter name to a boolean tensor of its shape, computed from the scores each time it is asked for.

    Attributes:
        ratio: As it was asked for.
        competing: How many weights were ranked, in all shards.
        selected: How many were chosen, in all shards.
    """

    def __init__(
        self, ratio: float, competing: int, selected: int, counts: Mapping[str, int], mask: Callable[[str], Tensor]
    ) -> None:
        self.ratio, self.competing, self.selected = ratio, competing, selected
        self._counts, self._mask = dict(counts), mask

    def counts(self) -> dict[str, int]:
        """Return how many were chosen of each tensor (of this process's part of it, where there are shards); computes nothing."""
        return dict(self._counts)

    def __getitem__(self, name: str) -> Tensor:
        """Return the mask of a parameter."""
        if name not in self._counts:
            raise KeyError(name)
        return self._mask(name)

    def __contains__(self, name: object) -> bool:
        """Return whether the parameter was ranked; computes nothing."""
        return name in self._counts

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)


@dataclass(frozen=True, slots=True)
class Shards:
    """Says that every process holds one part of each tensor, part after part in the tensor's own order.

    Attributes:
        index: Which part this process holds, counted from 0.
        count: How many processes there are.
        add_up: Adds integers up over the processes: called by all with arrays of one shape, returns the sum to all.
    """

    index: int
    count: int
    add_up: Callable[[np.ndarray], np.ndarray]
