"""What every way to merge is: settings, and what it does with the task vectors of one tensor.

    τ_t = θ_t − θ_init          one row for each of n models, flat, float32 (float64 of float64 models)
    merged = θ_init + combine(θ_init, τ_1 … τ_n)

A method may first change the rows of a tensor in place (`prune`); then `combine` is asked for a function of short pieces, so that what
it needs of the whole tensor (norms, angles) is found before. Nothing here reads or writes files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Literal

import numpy as np
from pydantic import Field

from temper.errors import InputError
from temper.recipe.named import NamedSettings

if TYPE_CHECKING:
    from torch import Tensor

    from temper.merge.trim import Cut

__all__ = ["PIECE", "Combine", "Density", "MergeMethod", "Scale", "TrimUnit", "Unit", "weighted_sum"]

PIECE: Final = 1 << 17
"""Entries that are worked on at a time: some rows of them lie in the cache of one core."""

TrimUnit = Literal["tensor", "model"]
Combine = "Callable[[Tensor, Sequence[Tensor]], Tensor]"
"""A piece of θ_init and the same piece of every row, each (P,), to that piece of the merged change, (P,), a new tensor."""


def Density(default: float = 0.2) -> float:  # a field of settings, named as such
    """Return the field k: which share of the entries of a task vector is kept."""
    value: float = Field(default, gt=0.0, le=1.0, description="k, the share of each task vector's entries that is kept.")
    return value


def Scale() -> float:
    """Return the field λ: what the merged change is multiplied by."""
    value: float = Field(1.0, description="λ, what the merged change is multiplied by.")
    return value


@dataclass
class Unit:
    """The task vectors of one tensor.

    Attributes:
        name: The tensor.
        rows: τ of each model, flat; `prune` may change them.
        weights: One number a model.
        keys: What tells a model apart from others wherever it lies; draws depend on it.
        seed: For draws.
        base: First and last entry to that piece of θ_init, in the rows' dtype.
        cuts: Where each row is cut, when that was found over all tensors of the model; None: over this tensor.
        majority: Sum of all elected signs of the model; None: that of this tensor.
        elected: At how many entries the sum that elects a sign is not zero; None: the method elects none.
    """

    name: str
    rows: list[Tensor]
    weights: list[float]
    keys: list[str]
    seed: int
    base: Callable[[int, int], Tensor]
    cuts: list[Cut] | None = None
    majority: float | None = None
    elected: int | None = None

    @property
    def entries(self) -> int:
        """Return how many entries the tensor has."""
        return self.rows[0].numel()

    def count_votes(self, total_P: Tensor) -> None:
        """Count at how many entries of a piece the sum that elects is not zero."""
        self.elected = (self.elected or 0) + int(np.count_nonzero((total_P != 0).numpy()))

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Yield first and last entry of each piece, in order."""
        return pieces(self.entries)


def pieces(entries: int) -> Iterator[tuple[int, int]]:
    """Yield where each piece of so many entries begins and ends."""
    for start in range(0, entries, PIECE):
        yield start, min(start + PIECE, entries)


class MergeMethod(NamedSettings):
    """Base of the settings of all methods.

    Attributes:
        takes_weights: Whether models can have weights.
        is_ordered: Whether it matters which model is first.
        most_models: How many it can merge; None: any number.
        bypasses_one: Whether a single model is its own merge, whatever the settings.
        trim: Over what entries compete to be kept, for methods that keep the largest.
    """

    takes_weights: ClassVar[bool] = True
    is_ordered: ClassVar[bool] = False
    most_models: ClassVar[int | None] = None
    bypasses_one: ClassVar[bool] = True

    @property
    def trim_unit(self) -> TrimUnit:
        """Return over what entries compete to be kept."""
        return "tensor"

    @property
    def kept_share(self) -> float | None:
        """Return the share of entries of a task vector that is to be kept; None where none is dropped."""
        return None

    @property
    def counts_unchanged(self) -> bool:
        """Return whether tensors that no model changed count when entries of a whole model compete."""
        return False

    @property
    def needs_majority(self) -> bool:
        """Return whether ties of signs are settled by the sum of all signs of the model."""
        return False

    def check(self, weights: Sequence[float] | None, n_models: int) -> list[float]:
        """Return one weight a model, equal ones where none are given.

        Raises:
            InputError: There are more models than the method can merge, or other weights than models.
        """
        if self.most_models is not None and n_models > self.most_models:
            raise InputError(
                f"{self.name}: merges {self.most_models} models, {n_models} were given. Merge two, or use linear or ties for more."
            )
        if weights is None:
            return [1.0] * n_models
        if not self.takes_weights:
            raise InputError(f"{self.name}: takes no weights, {len(weights)} were given. Leave them away.")
        if len(weights) != n_models:
            raise InputError(f"weights: {len(weights)} were given for {n_models} models. Give one for each, in their order.")
        if not all(abs(weight) < float("inf") for weight in weights):  # false of NaN too
            raise InputError(f"weights = {list(weights)}: must be finite numbers")
        return [float(weight) for weight in weights]

    def wanted(self, entries: int, name: str) -> int:
        """Return how many of so many competing entries of a task vector are kept.

        Raises:
            InputError: A convention refuses the number.
        """
        raise InputError(f"{self.name} keeps no largest entries, so none can be counted")

    def prune(self, unit: Unit) -> None:
        """Set entries that do not take part to zero, in place."""

    def combine(self, unit: Unit) -> Callable[[Tensor, Sequence[Tensor]], Tensor]:
        """Return the function that merges a piece of every row.

        Raises:
            InputError: The method defines none.
        """
        raise InputError(f"merge method {self.name} does not say how rows are merged")


def weighted_sum(rows: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return Σ_t w_t τ_t, a new tensor, added up in the order of the rows.

    Example:
        >>> import torch
        >>> weighted_sum([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0])], [1.0, 0.5]).tolist()
        [2.5, 2.0]
    """
    total = rows[0] * weights[0]
    for row, weight in zip(rows[1:], weights[1:], strict=True):
        total.add_(row, alpha=weight)
    return total
