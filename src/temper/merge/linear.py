"""The weighted mean of models, also called a soup.

    θ = Σ_t w_t θ_t / Σ_t w_t = θ_init + Σ_t w_t τ_t / Σ_t w_t

The mean is taken of the changes, so that what no model changed stays as it is, bit for bit.

Source: Wortsman et al., Model soups (2022); mergekit's `linear` with its normalisation, which is its default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from temper.errors import ModelError
from temper.merge.method import MergeMethod, Unit, weighted_sum

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Linear", "shares"]


def shares(weights: Sequence[float]) -> list[float]:
    """Return w_t / Σ w.

    Raises:
        ModelError: The weights sum to zero.

    Example:
        >>> shares([1.0, 3.0])
        [0.25, 0.75]
    """
    total = sum(weights)
    if total == 0:
        raise ModelError(
            f"weights = {list(weights)}: sum to 0, so there is no mean. Use task_arithmetic, which does not divide by their sum."
        )
    return [weight / total for weight in weights]


class Linear(MergeMethod):
    """Settings of the weighted mean: none of its own."""

    name: ClassVar[str] = "linear"

    def check(self, weights: Sequence[float] | None, n_models: int) -> list[float]:
        """Return one weight a model; they must have a sum."""
        found = super().check(weights, n_models)
        shares(found)
        return found

    def combine(self, unit: Unit) -> Callable[[Tensor, Sequence[Tensor]], Tensor]:
        """Return the weighted mean of the task vectors."""
        parts = shares(unit.weights)
        return lambda base_P, rows: weighted_sum(rows, parts)
