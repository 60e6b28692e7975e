"""SimNPO with a retain term: NPO without a reference, normalised by length.

    L = γ SimNPO_{β,δ}(D_f) + α NLL(D_r)

See `temper.train.losses.simnpo` for the equation. Cheaper than NPO by the reference pass; better where answers differ
much in length.

Source: Fan et al., Simplicity Prevails (2024); TOFU forget10 settings as defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from temper.unlearn.objective import Context, Objective

if TYPE_CHECKING:
    from temper.train.losses.term import LossTerm

__all__ = ["SimNPO"]


class SimNPO(Objective):
    """Settings of SimNPO."""

    name: ClassVar[str] = "simnpo"
    family: ClassVar[str] = "preference"
    forget_weight: float = Field(0.125, ge=0, description="γ, the weight of the forget term.")
    beta: float = Field(4.5, gt=0, description="β, inverse temperature.")
    margin: float = Field(0.0, description="δ, the paper's reward margin γ.")

    def forget_terms(self, context: Context) -> Sequence[LossTerm]:
        """Return SimNPO on forget."""
        from temper.train.losses.simnpo import SimNPO as SimNPOTerm

        return [SimNPOTerm("forget", self.forget_weight, beta=self.beta, margin=self.margin)]
