"""Negative preference optimisation with a retain term.

    L = γ NPO_β(D_f) + α NLL(D_r)

See `temper.train.losses.npo` for the equation. The default of the everyday unlearner: it forgets as far as ascent does
and does not run away. Small β is close to ascent; on small models and short answers β near 1 keeps more.

Source: Zhang et al., Negative Preference Optimization (2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from temper.unlearn.objective import Context, Objective

if TYPE_CHECKING:
    from temper.train.losses.term import LossTerm

__all__ = ["NPO"]


class NPO(Objective):
    """Settings of NPO."""

    name: ClassVar[str] = "npo"
    family: ClassVar[str] = "preference"
    beta: float = Field(0.1, gt=0, description="β, inverse temperature; smaller is closer to gradient ascent.")
    retain_weight: float = Field(1.0, ge=0, description="α, the weight of the retain term.")

    def terms(self, context: Context) -> Sequence[LossTerm]:
        """Return NPO on forget and descent on retain."""
        from temper.train.losses.nll import NLL
        from temper.train.losses.npo import NPO as NPOTerm

        return [NPOTerm("forget", self.forget_weight, beta=self.beta), NLL("retain", self.retain_weight)]
