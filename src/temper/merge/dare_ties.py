"""DARE with the election of TIES: entries are dropped at random, the others rescaled, and those that agree in sign averaged.

    θ = θ_init + λ · merge of drop(τ_t, k) by elected signs

Source: Yu et al., Language Models are Super Mario (2024). Dropping: `temper.merge.drop`; the election and where weights enter in each
convention: `temper.merge.signs`. The authors of TIES have no such method, so there is no `reference`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from temper.merge.drop import Rescale
from temper.merge.method import Density, MergeMethod, Scale, Unit
from temper.merge.signs import signs_merged

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DareTies"]


class DareTies(MergeMethod):
    """Settings of DARE with elected signs."""

    name: ClassVar[str] = "dare_ties"
    shorthand: ClassVar[str] = "density"
    density: float = Density()
    scale: float = Scale()
    convention: Literal["peft", "mergekit"] = Field("peft", description="Where weights enter: peft or mergekit.")
    rescale: Rescale = Field(
        "unbiased", description="unbiased: divide by k; l1: keep the sum of absolute values, as mergekit does."
    )
    normalize: bool = Field(True, description="mergekit: divide by the weights of the models that agree.")

    @model_validator(mode="after")
    def _only_mergekit_does_not_divide(self) -> DareTies:
        if not self.normalize and self.convention != "mergekit":
            raise ValueError(
                f"normalize = false is mergekit's; convention = {self.convention} always divides by the number that agree"
            )
        return self

    @property
    def kept_share(self) -> float | None:
        """Return k."""
        return self.density

    def prune(self, unit: Unit) -> None:
        """Drop entries of every row."""
        from temper.merge.drop import prune_at_random

        prune_at_random(unit, self.density, self.rescale)

    def combine(self, unit: Unit) -> Callable[[Tensor, Sequence[Tensor]], Tensor]:
        """Return λ times the merge by elected signs."""

        def merged(base_P: Tensor, rows: Sequence[Tensor]) -> Tensor:
            merged_P, total_P = signs_merged(rows, unit.weights, self.convention, normalize=self.normalize)
            unit.count_votes(total_P)
            return merged_P.mul_(self.scale) if self.scale != 1 else merged_P

        return merged
