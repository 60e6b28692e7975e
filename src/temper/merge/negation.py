"""Task-vector negation: a step away from models that were trained on what is to be forgotten.

    full weights    θ = θ_init − a Σ_t w_t τ_t
    LoRA            A ← −a A, B stays:  B(−aA) = −a BA.  Both signs turned would cancel
    (IA)³           l ← (1 + a) − a l                    the scale vector's distance from 1, turned

`merge` negates full weights, deltas and adapters in weight space; `temper.merge.adapterfiles` writes a negated adapter. Merging experts and
negating once is the same as merging negated ones: TIES(−τ) = −TIES(τ) where no sum is zero. One model is negated, not passed through.

Source: Ilharco et al., Editing models with task arithmetic (2023); Zhang et al., Composing parameter-efficient modules (2023), hkust-nlp/PEM_composition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from temper.merge.method import MergeMethod, Unit, weighted_sum

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Negation", "negated_factor", "negated_scales"]


def negated_factor(factor: Tensor, strength: float) -> Tensor:
    """Return the one factor of a LoRA that turns: −a A, any shape."""
    return factor * -strength


def negated_scales(scales: Tensor, strength: float) -> Tensor:
    """Return (1 + a) − a l of the scale vectors of an (IA)³, any shape.

    Example:
        >>> import torch
        >>> negated_scales(torch.tensor([1.0, 1.5]), 0.5).tolist()
        [1.0, 0.75]
    """
    return scales * -strength + (1 + strength)


class Negation(MergeMethod):
    """Settings of negation."""

    name: ClassVar[str] = "negation"
    shorthand: ClassVar[str] = "scale"
    bypasses_one: ClassVar[bool] = False
    scale: float = Field(1.0, description="a, how far against the task vectors; 0 changes nothing.")

    def combine(self, unit: Unit) -> Callable[[Tensor, Sequence[Tensor]], Tensor]:
        """Return −a Σ w τ."""
        factors = [-self.scale * weight for weight in unit.weights]
        return lambda base_P, rows: weighted_sum(rows, factors)
