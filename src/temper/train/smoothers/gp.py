"""Gradient penalty on the forget term: the loss also counts how steep F is.

    L = F(θ) + λ ‖∇F(θ)‖₂ + R(θ)
    ∇‖∇F‖ = H v  with v = ∇F / ‖∇F‖,  H v ≈ (∇F(θ + r v) - ∇F(θ - r v)) / 2r

    symbol  shape      meaning
    v       as θ       direction of the forget gradient, norm 1 over all tensors that train
    H       -          second derivatives of F; never formed
    r       number     step of the central difference
    λ       number     coefficient of the penalty

H v is a difference of gradients because the fused attention kernels of torch (flash, memory-efficient) have no second
derivative, and a double backward would keep the graph of the first one in memory. The difference is off by r²/6 times the
third derivative along v, plus the rounding of the gradients divided by r. On a tiny Llama r = 0.01 is off by 0.2 to 0.6 % of
‖H v‖ and r = 0.001 by 0.01 %; below that rounding takes over, in a float64 model too, as transformers computes norms and
softmax in float32. Larger models round more, so the default is the larger r. Do not run the passes under bf16 autocast: its
rounding, divided by r, drowns the difference.

Where ‖g‖ < 1e-12 the penalty has no gradient and the step is the plain one; at λ = 0 as well, bit for bit. A step costs three
forget passes and three copies of the weights that train.

Differences from the authors' code (there also GNR): it turned the norm into a plain number before differentiating, so that
its penalty had no gradient at all, and used 0.01 in place of the coefficient. The published setting was tuned with that code;
expect to tune λ again, from small values up.

Published setting (WMDP-bio, Zephyr, 125 steps): NPO at learning rate 7.5e-6, β 0.04, γ 1, coefficient 10.

Source: Zhao et al., Penalizing Gradient Norm (2022); Fan et al., Towards LLM Unlearning Resilient to Relearning Attacks
(2025) and its code.
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

__all__ = ["GP"]


class GP(Smoother):
    """Settings of the gradient penalty."""

    name: ClassVar[str] = "gp"
    shorthand: ClassVar[str] = "coefficient"
    coefficient: float = Field(10.0, ge=0, description="λ, the weight of the norm of the forget gradient.")
    radius: float = Field(0.01, gt=0, description="r, how far the weights are moved to either side for the difference.")

    @property
    def forget_passes(self) -> int:
        """Return 3, or 1 at λ = 0."""
        return 3 if self.coefficient else 1

    def step(self, parameters: Sequence[nn.Parameter], forget: Pass, retain: Pass, key: tuple[int, ...]) -> StepReport:
        """Leave ∇F + λ H v + ∇R in p.grad."""
        if not self.coefficient:
            return super().step(parameters, forget, retain, key)
        clear(parameters)
        replay = Replay(parameters)
        forget_loss = forget()
        gradient = take(parameters)
        norm = norm_of(squared_norms(gradient))
        if norm >= SMALLEST_NORM:
            with restoring(parameters) as saved:
                displace(parameters, saved, gradient, self.radius / norm)
                replay.rewind()
                forget()
                difference = take(parameters)
                displace(parameters, saved, gradient, -self.radius / norm)
                replay.rewind()
                forget()
                add_scaled(difference, [parameter.grad for parameter in parameters], -1.0)
            add_scaled(gradient, difference, self.coefficient / (2.0 * self.radius))
        put(parameters, gradient)
        penalty = self.coefficient * norm
        statistics = {"forget_loss": forget_loss, "penalty": penalty, "forget_gradient_norm": norm}
        return StepReport(forget_loss + penalty + retain(), statistics)
