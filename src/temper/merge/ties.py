"""TIES: trim every task vector to its largest entries, elect a sign for every entry, average those that agree with it.

    τ̂_t = trim(τ_t, k)      γ = sign(Σ_t τ̂_t)      θ = θ_init + λ · mean of τ̂_t,p over t with sign(τ̂_t,p) = γ_p

| symbol | field | meaning |
| --- | --- | --- |
| k | `density` | share of entries kept, (0, 1]; the authors use 0.2 |
| λ | `scale` | the authors use 1, or search 0.8 to 2.5 on validation data |

Three implementations give three results; `convention` names one:

| | `peft` | `mergekit` | `reference` (the authors') |
| --- | --- | --- | --- |
| entries compete over | each tensor | each tensor | all parameters of the model |
| entries kept | ⌊kP⌋ | ⌊kP⌋, refuses 0 | ⌊kP⌋ + 1, and all that equal the last |
| k = 1 | no trimming | no trimming | refused |
| a sum of zero counts as | + | + | the sign of the sum of all elected signs |
| weights | after the election, divided by the number that agree | before it, divided by their weights (`normalize`) | none |

`trim` chooses what competes whatever the convention; for the first two, only tensors that some model changed count. ⌊kP⌋ is that of the
product of the numbers written, where rounding in floating point would lose one (`int(0.29 * 100)` is 28). Of equal entries those of the
lower place are kept. With one model nothing is merged: it is the result, untrimmed.

Source: Yadav et al., TIES-Merging: Resolving Interference When Merging Models (2023); peft 0.21, mergekit 0.1.5, prateeky2806/ties-merging.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from temper.errors import ModelError
from temper.merge.method import Density, MergeMethod, Scale, TrimUnit, Unit
from temper.merge.signs import Convention, signs_merged

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Ties", "elected_majority"]


class Ties(MergeMethod):
    """Settings of TIES."""

    name: ClassVar[str] = "ties"
    shorthand: ClassVar[str] = "density"
    density: float = Density()
    scale: float = Scale()
    convention: Convention = Field("peft", description="Whose form of TIES: peft, mergekit or reference.")
    trim: TrimUnit | None = Field(
        None, description="Entries compete within a tensor or the model; default: as the convention has it."
    )
    normalize: bool = Field(True, description="mergekit: divide by the weights of the models that agree.")

    @model_validator(mode="after")
    def _reference_trims(self) -> Ties:
        if self.convention == "reference" and self.density == 1:
            raise ValueError(
                "density = 1 with convention = reference: it has no threshold for that. Use a density below 1, or convention = peft"
            )
        if not self.normalize and self.convention != "mergekit":
            raise ValueError(
                f"normalize = false is mergekit's; convention = {self.convention} always divides by the number that agree"
            )
        return self

    @property
    def trim_unit(self) -> TrimUnit:
        """Return over what entries compete to be kept."""
        return self.trim or ("model" if self.convention == "reference" else "tensor")

    @property
    def kept_share(self) -> float | None:
        """Return k."""
        return self.density

    @property
    def keeps_equal(self) -> bool:
        """Return whether every entry equal to the last one kept is kept too."""
        return self.convention == "reference"

    @property
    def counts_unchanged(self) -> bool:
        """Return whether tensors that no model changed count when entries of a whole model compete."""
        return self.convention == "reference"

    @property
    def needs_majority(self) -> bool:
        """Return whether ties of signs are settled by the sum of all signs."""
        return self.convention == "reference"

    def check(self, weights: Sequence[float] | None, n_models: int) -> list[float]:
        """Return one weight a model; the reference has none."""
        found = super().check(weights, n_models)
        if self.convention == "reference" and any(weight != 1 for weight in found):
            raise ModelError(
                f"weights = {found}: convention = reference has no weights. Leave them away, or use peft or mergekit."
            )
        return found

    def wanted(self, entries: int, name: str) -> int:
        """Return how many of so many entries are kept.

        Raises:
            ModelError: None would be, which mergekit refuses.
        """
        from temper.models.choice import budget

        count = budget(self.density, entries)
        if self.convention == "mergekit" and not count:
            raise ModelError(
                f"{name}: density = {self.density:g} keeps none of its {entries} entries, which convention = mergekit refuses. "
                "Raise the density, or use convention = peft."
            )
        return min(count + 1, entries) if self.convention == "reference" else count

    def prune(self, unit: Unit) -> None:
        """Trim every row."""
        from temper.merge.trim import prune_largest

        prune_largest(self, unit, all_ties=self.keeps_equal)

    def combine(self, unit: Unit) -> Callable[[Tensor, Sequence[Tensor]], Tensor]:
        """Return λ times the mean of what agrees with the elected sign."""
        majority = 1.0
        if self.needs_majority:
            majority = elected_majority(unit) if unit.majority is None else unit.majority

        def merged(base_P: Tensor, rows: Sequence[Tensor]) -> Tensor:
            merged_P, total_P = signs_merged(rows, unit.weights, self.convention, normalize=self.normalize, majority=majority)
            unit.count_votes(total_P)
            return merged_P.mul_(self.scale) if self.scale != 1 else merged_P

        return merged


def elected_majority(unit: Unit) -> float:
    """Return the sum of the signs of all sums of a tensor's rows."""
    from temper.merge.method import weighted_sum

    total = 0.0
    for start, stop in unit.pieces():
        total += float(weighted_sum([row[start:stop] for row in unit.rows], [1.0] * len(unit.rows)).sign_().sum())
    return total
