"""Task arithmetic on trimmed task vectors.

    θ = θ_init + λ Σ_t w_t trim(τ_t, k)

Source: peft's `magnitude_prune`; trimming as in TIES (`temper.merge.trim`).
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from temper.merge.method import Density, TrimUnit, Unit
from temper.merge.task_arithmetic import TaskArithmetic

__all__ = ["MagnitudePrune"]


class MagnitudePrune(TaskArithmetic):
    """Settings of magnitude pruning."""

    name: ClassVar[str] = "magnitude_prune"
    shorthand: ClassVar[str] = "density"
    density: float = Density()
    trim: TrimUnit = Field("tensor", description="Entries compete within a tensor or the model.")

    @property
    def trim_unit(self) -> TrimUnit:
        """Return over what entries compete to be kept."""
        return self.trim

    @property
    def kept_share(self) -> float | None:
        """Return k."""
        return self.density

    def wanted(self, entries: int, name: str) -> int:
        """Return ⌊kP⌋."""
        from temper.models.choice import budget

        return budget(self.density, entries)

    def prune(self, unit: Unit) -> None:
        """Trim every row."""
        from temper.merge.trim import prune_largest

        prune_largest(self, unit)
