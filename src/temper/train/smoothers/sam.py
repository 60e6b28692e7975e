"""Sharpness-aware minimisation of the forget term: its gradient is taken where F is worst nearby.

    g = ∇F(θ)      ε = ρ g / ‖g‖₂      gradient = ∇F(θ + ε) + ∇R(θ)

    symbol  shape          meaning
    g       as θ           gradient of the forget terms at θ, all micro-batches
    ρ       number         how far to look, in units of the weights
    ε       as θ           the perturbation; ‖ε‖ = ρ over all tensors that train (scope: global)

With `scope: tensor` the norm is taken tensor by tensor, so each tensor is moved by ρ and all k of them by ρ√k. With
`adaptive` a weight is moved in proportion to its size: T = |θ| + η and ε = ρ T² g / ‖T g‖, so that ‖ε / T‖ = ρ; ρ then is a
share of the weights and not comparable with the plain one.

The retain gradient is taken at θ itself. Where ‖g‖ < 1e-12, ε is 0. At ρ = 0 the step is the plain one, bit for bit.
A step costs two forget passes and one copy of the weights that train.

Differences from the authors' code: weights come back from copies (adding and subtracting ε leaves rounding errors behind),
and the passes cover all micro-batches of a step (there, gradient accumulation above 1 drops all but the last).

Published settings (WMDP-bio, Zephyr, 125 steps): NPO with SAM at learning rate 5e-6, β 0.015, γ 2.25, ρ 0.01, against plain
NPO at learning rate 5e-6, β 0.0225, γ 1. MUSE: ρ 0.01, retain coefficient 1.0 and 10 epochs (News), 2.5 and 1 epoch (Books).

Source: Foret et al., Sharpness-Aware Minimization (2021); Kwon et al., ASAM (2021); Fan et al., Towards LLM Unlearning
Resilient to Relearning Attacks (2025) and its code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from temper.train.smoothers.base import Pass, Smoother, StepReport
from temper.train.smoothers.moving import SMALLEST_NORM, Replay, clear, displace, norm_of, restoring, squared_norms

if TYPE_CHECKING:
    from torch import Tensor, nn

    from temper.train.smoothers.moving import Gradients

__all__ = ["SAM", "scale_to_perturbation"]

_ETA = 0.01


class SAM(Smoother):
    """Settings of sharpness-aware minimisation."""

    name: ClassVar[str] = "sam"
    shorthand: ClassVar[str] = "rho"
    rho: float = Field(0.01, ge=0, description="ρ, how far the weights are moved before the forget gradient is taken.")
    scope: Literal["global", "tensor"] = Field("global", description="Whether ρ is shared by all tensors or holds for each.")
    adaptive: bool = Field(False, description="Move a weight in proportion to its size (ASAM).")
    eta: float = Field(_ETA, gt=0, description="η, added to the size of a weight; only with adaptive.")

    @model_validator(mode="after")
    def _eta_acts(self) -> SAM:
        if self.eta != _ETA and not self.adaptive:
            raise ValueError(f"eta = {self.eta} has no effect without adaptive: true. Set it, or leave eta out")
        return self

    @property
    def forget_passes(self) -> int:
        """Return 2, or 1 at ρ = 0."""
        return 2 if self.rho else 1

    def step(self, parameters: Sequence[nn.Parameter], forget: Pass, retain: Pass, key: tuple[int, ...]) -> StepReport:
        """Leave ∇F(θ + ε) + ∇R(θ) in p.grad."""
        if not self.rho:
            return super().step(parameters, forget, retain, key)
        clear(parameters)
        replay = Replay(parameters)
        here = worst = forget()
        gradients = [parameter.grad for parameter in parameters]
        squares = squared_norms(gradients)
        norm = norm_of(squares)
        if norm >= SMALLEST_NORM:
            weights = parameters if self.adaptive else None
            scale_to_perturbation(gradients, squares, weights, rho=self.rho, scope=self.scope, eta=self.eta)
            with restoring(parameters) as saved:
                displace(parameters, saved, gradients, 1.0)
                # ε is in the weights; its memory is wanted for the second pass
                del gradients
                clear(parameters)
                replay.rewind()
                worst = forget()
        statistics = {"forget_loss": here, "perturbed_forget_loss": worst, "forget_gradient_norm": norm}
        return StepReport(worst + retain(), statistics)


def scale_to_perturbation(
    gradients: Gradients,
    squares: Sequence[float],
    weights: Sequence[Tensor] | None = None,
    *,
    rho: float,
    scope: Literal["global", "tensor"] = "global",
    eta: float = _ETA,
) -> None:
    """Turn gradients g into the perturbation ε, in place.

    Args:
        gradients: g, each of the shape of its weights.
        squares: ‖g‖² of each.
        weights: θ for the adaptive form, None for the plain one.
        rho: ρ.
        scope: Whether the norm is taken over all tensors or over each.
        eta: η of the adaptive form.

    Example:
        ‖g‖ = 5, so that ρ = 10 doubles it.

        >>> import torch
        >>> g = torch.tensor([3.0, -4.0])
        >>> scale_to_perturbation([g], [25.0], rho=10.0)
        >>> g.tolist()
        [6.0, -8.0]
    """
    import torch

    with torch.no_grad():
        reach = list(squares)
        if weights is not None:
            _scale_by_size(gradients, weights, eta)
            reach = squared_norms(gradients)
            _scale_by_size(gradients, weights, eta)
        overall = norm_of(reach)
        for gradient, square, own in zip(gradients, squares, reach, strict=True):
            if gradient is not None:
                norm = overall if scope == "global" else own**0.5
                followed = scope == "global" or square**0.5 >= SMALLEST_NORM
                gradient.mul_(rho / norm if followed and norm else 0.0)


def _scale_by_size(gradients: Gradients, weights: Sequence[Tensor], eta: float) -> None:
    for gradient, weight in zip(gradients, weights, strict=True):
        if gradient is not None:
            gradient.mul_(weight.detach().abs().add_(eta))
