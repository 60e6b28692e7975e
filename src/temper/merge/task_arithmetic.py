"""Task arithmetic: the weighted sum of task vectors.

    θ = θ_init + λ Σ_t w_t τ_t

The sum is not divided by Σ w: two models with weights of 1 change the base by both.

Source: Ilharco et al., Editing models with task arithmetic (2023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from temper.merge.method import MergeMethod, Scale, Unit, weighted_sum

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TaskArithmetic"]


class TaskArithmetic(MergeMethod):
    """Settings of task arithmetic."""

    name: ClassVar[str] = "task_arithmetic"
    shorthand: ClassVar[str] = "scale"
    scale: float = Scale()

    def combine(self, unit: Unit) -> Callable[[Tensor, Sequence[Tensor]], Tensor]:
        """Return λ Σ w τ."""
        factors = [self.scale * weight for weight in unit.weights]
        return lambda base_P, rows: weighted_sum(rows, factors)
