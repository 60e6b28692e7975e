"""A retain weight that is moved by the retain loss itself: dual ascent on the constraint R(θ) ≤ ε.

    min_θ F(θ)  subject to  R(θ) ≤ ε          L(θ, α) = γ F(θ) + α (R(θ) - ε)
    α ← max(0, α + η (R(θ) - ε))              after each step, once the warm-up is over

While the retain loss is above ε its weight grows, below it falls; α is the price of the constraint. It is part of every checkpoint.

Source: Entesari et al., Constrained unlearning by primal-dual updates (2025), as in open-unlearning's PDU.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DualAscent", "DualSettings"]


@dataclass(frozen=True)
class DualSettings:
    """How the weight moves.

    Attributes:
        role: The role whose term is constrained.
        epsilon: ε, the bound on its loss, in the units of the term (nats a token for NLL).
        step_size: η.
        warmup_epochs: Passes over the anchor role before the weight moves.
    """

    role: str
    epsilon: float
    step_size: float
    warmup_epochs: float


class DualAscent:
    """The state of the weight.

    Args:
        settings: How it moves.
        initial: α at the start.
        warmup_steps: Steps before it moves.

    Example:
        >>> ascent = DualAscent(DualSettings("retain", 0.5, 2.0, 0.0), 1.0, 0)
        >>> ascent.update(0, 0.75); ascent.weight
        1.5
        >>> ascent.update(1, -9.0); ascent.weight
        0.0
    """

    def __init__(self, settings: DualSettings, initial: float, warmup_steps: int) -> None:
        self.settings = settings
        self.weight = initial
        self._warmup_steps = warmup_steps

    def update(self, step: int, loss: float) -> None:
        """Move the weight after an optimiser step in which the constrained loss was `loss`."""
        if step >= self._warmup_steps:
            self.weight = max(0.0, self.weight + self.settings.step_size * (loss - self.settings.epsilon))
