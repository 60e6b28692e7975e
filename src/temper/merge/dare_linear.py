"""DARE with task arithmetic: entries are dropped at random, the others rescaled, the task vectors summed.

    θ = θ_init + λ Σ_t w_t drop(τ_t, k)

Source: Yu et al., Language Models are Super Mario (2024). Dropping, and the two ways to rescale: `temper.merge.drop`.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from temper.merge.drop import Rescale
from temper.merge.method import Density, Unit
from temper.merge.task_arithmetic import TaskArithmetic

__all__ = ["DareLinear"]


class DareLinear(TaskArithmetic):
    """Settings of DARE with task arithmetic."""

    name: ClassVar[str] = "dare_linear"
    shorthand: ClassVar[str] = "density"
    density: float = Density()
    rescale: Rescale = Field(
        "unbiased", description="unbiased: divide by k; l1: keep the sum of absolute values, as mergekit does."
    )

    @property
    def kept_share(self) -> float | None:
        """Return k."""
        return self.density

    def prune(self, unit: Unit) -> None:
        """Drop entries of every row."""
        from temper.merge.drop import prune_at_random

        prune_at_random(unit, self.density, self.rescale)
