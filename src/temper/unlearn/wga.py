"""Weighted gradient ascent (WGA) with a retain term: likely tokens are pushed, forgotten ones left alone.

    L = -γ mean over labelled t of sg(p_t)^β n_t + α R(D_r),        n_t = -log p_t

See `temper.train.losses.saturation` for the equation. β = 0 is gradient ascent with a retain term (`graddiff`).

| symbol | here | meaning |
| --- | --- | --- |
| β | beta | exponent of the token's probability |
| γ | forget_weight | weight of the ascent |
| α | retain_weight | weight of the retain term |

Source: Wang et al., Rethinking LLM Unlearning Objectives: A Gradient Perspective and Go Beyond (2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from temper.unlearn.objective import Context, Objective

if TYPE_CHECKING:
    from temper.train.losses.term import LossTerm

__all__ = ["WGA"]


class WGA(Objective):
    """Settings of WGA."""

    name: ClassVar[str] = "wga"
    family: ClassVar[str] = "ascent"
    beta: float = Field(1.0, ge=0, description="β, exponent of the token's probability; 0 is gradient ascent.")

    def forget_terms(self, context: Context) -> Sequence[LossTerm]:
        """Return weighted ascent on forget."""
        from temper.train.losses.saturation import WGA as WGATerm

        return [WGATerm("forget", self.forget_weight, beta=self.beta)]
