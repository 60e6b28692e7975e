"""Curvature regularisation of the forget term: the loss also counts how much F rises along its own gradient.

    L = F(θ) + λ (F(θ + h v) - F(θ)) + R(θ),      v = ∇F(θ) / ‖∇F(θ)‖₂, held fixed when differentiating
    gradient = ∇F(θ) + λ (∇F(θ + h v) - ∇F(θ)) + ∇R(θ)

    symbol  shape      meaning
    v       as θ       direction of the forget gradient, norm 1 over all tensors that train
    h       number     how far to look along it
    λ       number     coefficient of the penalty

To first order in h the penalty is h‖∇F‖ + ½ h² vᵀH v, its gradient λ h H v: that of the gradient penalty `gp` with λ h for
its λ, from a difference to one side only. It needs the same care with rounding: no bf16 autocast.

Where ‖g‖ < 1e-12 the penalty is 0 and the step is the plain one; at λ = 0 as well, bit for bit. A step costs two forget passes
and two copies of the weights that train.

Differences from the authors' code: it turned the penalty into a plain number, so that it had no gradient at all. The
published setting was tuned with that code; expect to tune λ again.

Published setting (WMDP-bio, Zephyr, 125 steps): NPO at learning rate 8.5e-6, β 0.035, γ 1, coefficient 10, h 0.01.

Source: Fan et al., Towards LLM Unlearning Resilient to Relearning Attacks (2025) and its code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from temper.train.smoothers.base import Pass, Smoother, StepReport
from temper.train.smoothers.moving import (
    SMALLEST_NORM,
    Replay,
    add_scaled,
    clear,
    displace,
    norm_of,
    put,
    restoring,
    squared_norms,
    take,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = ["CR"]


class CR(Smoother):
    """Settings of curvature regularisation."""

    name: ClassVar[str] = "cr"
    shorthand: ClassVar[str] = "coefficient"
    coefficient: float = Field(10.0, ge=0, description="λ, the weight of the rise of the forget loss.")
    radius: float = Field(0.01, gt=0, description="h, how far the weights are moved along the forget gradient.")

    @property
    def forget_passes(self) -> int:
        """Return 2, or 1 at λ = 0."""
        return 2 if self.coefficient else 1

    def step(self, parameters: Sequence[nn.Parameter], forget: Pass, retain: Pass, key: tuple[int, ...]) -> StepReport:
        """Leave ∇F(θ) + λ (∇F(θ + h v) - ∇F(θ)) + ∇R(θ) in p.grad."""
        if not self.coefficient:
            return super().step(parameters, forget, retain, key)
        clear(parameters)
        replay = Replay(parameters)
        here = there = forget()
        gradient = take(parameters)
        norm = norm_of(squared_norms(gradient))
        if norm >= SMALLEST_NORM:
            with restoring(parameters) as saved:
                displace(parameters, saved, gradient, self.radius / norm)
                replay.rewind()
                there = forget()
            difference = [parameter.grad for parameter in parameters]
            add_scaled(difference, gradient, -1.0)
            add_scaled(gradient, difference, self.coefficient)
        put(parameters, gradient)
        penalty = self.coefficient * (there - here)
        statistics = {"forget_loss": here, "penalty": penalty, "forget_gradient_norm": norm}
        return StepReport(here + penalty + retain(), statistics)
