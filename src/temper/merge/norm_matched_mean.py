"""The mean of task vectors, made as long as another merge of them: what tells the direction of a merge from its step size.

    m = Σ_t w_t τ_t / Σ_t w_t        θ = θ_init + λ · r · m / ‖m‖

| `to` | r, tensor by tensor |
| --- | --- |
| `ties` | ‖TIES(τ_1 … τ_n)‖, with `density` and `convention`, entries competing within the tensor, λ = 1 |
| `task_vectors` | the mean of ‖τ_t‖ over the models |

A mean of n unrelated task vectors is 1/√n as long as one of them, while TIES keeps or lengthens the step. A gain of TIES over the mean
may so be only that of a larger step; against this mean it is not. A tensor whose mean is zero stays as it is.

Source: a control of ours; the figures behind it are in docs/merge.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from temper.merge.linear import Linear, shares
from temper.merge.method import Density, Scale, Unit, weighted_sum

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NormMatchedMean"]


class NormMatchedMean(Linear):
    """Settings of the mean with a given length."""

    name: ClassVar[str] = "norm_matched_mean"
    shorthand: ClassVar[str] = "to"
    to: Literal["ties", "task_vectors"] = Field(
        "ties", description="Whose length: that of TIES, or the mean of the task vectors'."
    )
    density: float = Density()
    convention: Literal["peft", "mergekit"] = Field("peft", description="Whose form of TIES gives the length.")
    scale: float = Scale()

    def combine(self, unit: Unit) -> Callable[[Tensor, Sequence[Tensor]], Tensor]:
        """Return the mean, rescaled."""
        parts = shares(unit.weights)
        mean = math.sqrt(sum(_squared(weighted_sum(rows, parts)) for rows in _row_pieces(unit)))
        if self.to == "ties":
            wanted = self._norm_of_ties(unit)
        else:
            wanted = sum(math.sqrt(sum(_squared(rows[t]) for rows in _row_pieces(unit))) for t in range(len(parts))) / len(parts)
        factor = self.scale * wanted / mean if mean else 0.0
        return lambda base_P, rows: weighted_sum(rows, [factor * part for part in parts])

    def _norm_of_ties(self, unit: Unit) -> float:
        from temper.merge.ties import Ties
        from temper.merge.trim import cuts_within, trim

        ties = Ties(density=self.density, convention=self.convention)
        cuts, combine, total = cuts_within(ties, unit), ties.combine(unit), 0.0
        for rows in _row_pieces(unit):
            kept = [row.clone() for row in rows]  # the rows themselves are needed for the mean
            for row, cut in zip(kept, cuts, strict=True):
                trim(row, cut)
            total += _squared(combine(rows[0], kept))
        return math.sqrt(total)


def _row_pieces(unit: Unit) -> list[list[Tensor]]:
    return [[row[start:stop] for row in unit.rows] for start, stop in unit.pieces()]


def _squared(piece: Tensor) -> float:
    return float(piece.double().square().sum())
