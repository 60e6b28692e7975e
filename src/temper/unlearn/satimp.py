"""SatImp with a retain term: ascent on the tokens that are neither forgotten nor certain.

    L = -γ mean over labelled t of sg(p_t)^β1 (1 - sg(p_t))^β2 n_t + α R(D_r),        n_t = -log p_t

See `temper.train.losses.saturation` for the equation. β2 = 0 is WGA.

| symbol | here | meaning |
| --- | --- | --- |
| β1 | beta_saturation | exponent of the token's probability: leaves forgotten tokens alone |
| β2 | beta_importance | exponent of one minus it: leaves certain tokens alone |
| γ | forget_weight | weight of the ascent |
| α | retain_weight | weight of the retain term |

The default weights are those of the settings file of open-unlearning; its class has them the other way round.

Source: Yang et al., Exploring Criteria of Loss Reweighting to Enhance LLM Unlearning (2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from temper.unlearn.objective import Context, Objective

if TYPE_CHECKING:
    from temper.train.losses.term import LossTerm

__all__ = ["SatImp"]


class SatImp(Objective):
    """Settings of SatImp."""

    name: ClassVar[str] = "satimp"
    family: ClassVar[str] = "ascent"
    forget_weight: float = Field(0.1, ge=0, description="γ, the weight of the forget term.")
    beta_saturation: float = Field(5.0, ge=0, description="β1, exponent of the token's probability.")
    beta_importance: float = Field(1.0, ge=0, description="β2, exponent of one minus the token's probability.")

    def forget_terms(self, context: Context) -> Sequence[LossTerm]:
        """Return weighted ascent on forget."""
        from temper.train.losses.saturation import SatImp as SatImpTerm

        return [
            SatImpTerm("forget", self.forget_weight, beta_saturation=self.beta_saturation, beta_importance=self.beta_importance)
        ]
