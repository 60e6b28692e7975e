"""Randomised smoothing of the forget term: its gradient is averaged over random displacements of the weights.

    gradient = (1/n) Σ_i ∇F(θ + ρ z_i) + ∇R(θ),      z_i ~ N(0, 1) for every weight, i = 1..n

This is a gradient of F smoothed by a Gaussian of standard deviation ρ. The noise reaches every weight of the tensors that
train, those that a mask holds still included: they are moved for the pass and come back bit for bit. A step costs n forget
passes and one copy of the weights that train. At ρ = 0 the step is the plain one, bit for bit.

The noise is drawn on the CPU in single precision and keyed by the seed, the step, the draw and the number of the tensor, so
that it is the same on any device, under any sharding and in a resumed run. That costs about 20 s per 10⁹ weights and draw;
with billions of weights let fewer of them train, or use sam.

Differences from the authors' code: it overwrote gradients and stepped the optimiser inside the pass, so that accumulation
above 1 dropped micro-batches; here all are kept.

Published setting (WMDP-bio, Zephyr, 125 steps): NPO at learning rate 1e-5, β 0.0125, γ 2, ρ 1e-4, n = 3.

Source: Fan et al., Towards LLM Unlearning Resilient to Relearning Attacks (2025) and its code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from temper.draws import torch_generator
from temper.train.smoothers.base import Pass, Smoother, StepReport
from temper.train.smoothers.moving import clear, restoring, shard_like

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["RS", "noise"]


class RS(Smoother):
    """Settings of randomised smoothing."""

    name: ClassVar[str] = "rs"
    shorthand: ClassVar[str] = "rho"
    rho: float = Field(1.0e-4, ge=0, description="ρ, the standard deviation of the noise on each weight.")
    draws: int = Field(3, ge=1, description="n, noisy passes of the forget terms per step.")

    @property
    def forget_passes(self) -> int:
        """Return n, or 1 at ρ = 0."""
        return self.draws if self.rho else 1

    def step(self, parameters: Sequence[nn.Parameter], forget: Pass, retain: Pass, key: tuple[int, ...]) -> StepReport:
        """Leave the mean of ∇F(θ + ρ z_i), plus ∇R(θ), in p.grad."""
        import torch

        if not self.rho:
            return super().step(parameters, forget, retain, key)
        clear(parameters)
        losses = []
        with restoring(parameters) as saved:
            for draw in range(self.draws):
                with torch.no_grad():
                    for number, (parameter, original) in enumerate(zip(parameters, saved, strict=True)):
                        parameter.copy_(original).add_(noise(parameter, key, draw, number), alpha=self.rho)
                losses.append(forget())
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.div_(self.draws)
        smoothed = sum(losses) / self.draws
        return StepReport(smoothed + retain(), {"perturbed_forget_loss": smoothed})


def noise(parameter: Tensor, key: tuple[int, ...], draw: int, number: int) -> Tensor:
    """Return standard normal noise of the parameter's shape, type, device and sharding.

    Args:
        parameter: The weights that are to be moved.
        key: Seed and number of the step.
        draw: Number of the pass within the step.
        number: Number of the tensor among those that train.
    """
    import torch

    seed, *rest = key
    generator = torch_generator(seed, *rest, "smoother", "rs", draw, number)
    drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
    return shard_like(drawn.to(parameter.dtype), parameter)
