"""SimNPO: NPO without a reference, on the mean over a row's tokens.

    F = -(2/β) mean_b log σ( β (A_θ(x, y) - δ) ),      A = S/T, the mean -log p of the row's labelled tokens

Dividing by the length keeps long answers from dominating; δ is the paper's reward margin γ (open-unlearning calls it
delta). As β falls to 0 it becomes length-normalised gradient ascent; with A = δ it is (2/β) ln 2.

Source: Fan et al., Simplicity Prevails (2024), equation 4, and the authors' TOFU settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from temper.train.losses.term import Batch, Cache, LossTerm, Outputs, TermValue, Unit, labelled_BL

__all__ = ["SimNPO", "simnpo_sum"]


def simnpo_sum(mean_nll_B: torch.Tensor, beta: float, margin: float) -> torch.Tensor:
    """Return the sum over rows of -(2/β) log σ(β (A - δ)), a scalar.

    Args:
        mean_nll_B: A, the mean -log p over each row's labelled tokens.
        beta: Inverse temperature, above 0.
        margin: δ.

    Example:
        With A = δ a row gives (2/β) ln 2 = 0.3081 for β = 4.5.

        >>> round(simnpo_sum(torch.tensor([1.5]), 4.5, 1.5).item(), 4)
        0.3081
    """
    return -(2.0 / beta) * F.logsigmoid(beta * (mean_nll_B - margin)).sum()


@dataclass(frozen=True)
class SimNPO(LossTerm):
    """See the module."""

    beta: float = 4.5
    margin: float = 0.0
    unit: ClassVar[Unit] = "rows"
    label: ClassVar[str] = "simnpo"

    @property
    def needs(self) -> frozenset[str]:
        """Return {token_nll}."""
        return frozenset({"token_nll"})

    def __call__(self, outputs: Outputs, batch: Batch, cache: Cache) -> TermValue:
        """Return the sum over rows."""
        assert outputs.token_nll is not None
        mean_nll_B = outputs.token_nll.sum(dim=1) / labelled_BL(batch).sum(dim=1)
        return TermValue(simnpo_sum(mean_nll_B, self.beta, self.margin), {"mean_nll": mean_nll_B.detach().sum()})
