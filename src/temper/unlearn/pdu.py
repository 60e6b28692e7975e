"""Primal-dual unlearning (PDU): flatten the forget predictions subject to a bound on the retain loss.

    min_θ γ mean over labelled t of (max_v z - mean_v z)²     subject to     R(D_r) ≤ ε

See `temper.train.losses.margin` for the forget term. The bound is kept by its multiplier α, which starts at the retain
weight and, once the warm-up is over, moves after each step by α ← max(0, α + η (R - ε)): the retain term weighs more for as
long as its loss is above ε, less below.

| symbol | here | meaning | unit |
| --- | --- | --- | --- |
| ε | epsilon | the retain loss that is allowed | that of the retain term; nats a token for `nll` |
| η | dual_step | step of the multiplier | one a unit of the retain loss |
| | warmup | time before the multiplier moves | epochs |
| γ | forget_weight | weight of the forget term | |
| α | retain_weight | where the multiplier starts | |

ε depends on the model and the data: measure the retain loss of the model before and allow a little more.

Source: Entesari et al., Constrained Entropic Unlearning: A Primal-Dual Framework for Large Language Models (2025), and its code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from temper.unlearn.objective import Context, Objective

if TYPE_CHECKING:
    from temper.train.dual import DualSettings
    from temper.train.losses.term import LossTerm

__all__ = ["PDU"]


class PDU(Objective):
    """Settings of PDU."""

    name: ClassVar[str] = "pdu"
    family: ClassVar[str] = "entropy"
    epsilon: float = Field(ge=0, description="ε, the retain loss that is allowed, in nats a token for the nll retain term.")
    dual_step: float = Field(1.0, gt=0, description="η, step of the multiplier a unit of excess retain loss.")
    warmup: float = Field(5.0, ge=0, description="Epochs before the multiplier moves.")

    @model_validator(mode="after")
    def _constrains_something(self) -> PDU:
        if self.retain_term == "none":
            raise ValueError("retain_term: none leaves nothing to constrain; choose nll, kl, embed or ap")
        return self

    def forget_terms(self, context: Context) -> Sequence[LossTerm]:
        """Return the squared margin on forget."""
        from temper.train.losses.margin import Margin

        return [Margin("forget", self.forget_weight)]

    def dual(self) -> DualSettings:
        """Return how the multiplier moves."""
        from temper.train.dual import DualSettings

        return DualSettings("retain", epsilon=self.epsilon, step_size=self.dual_step, warmup_epochs=self.warmup)
