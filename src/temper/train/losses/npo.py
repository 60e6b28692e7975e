"""Negative preference optimisation: the forget answer as a rejected one, against the model from before.

    F = -(2/β) mean_b log σ( β [S_θ - S_0](x, y) ),      S = Σ_t -log p(y_t), summed over the row

The gradient is that of gradient ascent on the row, weighted by 2σ(-β(S_θ - S_0)): 1 at the start and falling to 0 as the
row is forgotten, so it does not run away. As β falls to 0, NPO becomes gradient ascent. At the start the loss is (2/β) ln 2.

S_0 does not change: the engine computes it once for every forget row, so that no second model is kept.

Source: Zhang et al., Negative Preference Optimization (2024), equation 3, and the authors' code (sequence sums).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from temper.train.losses.term import Batch, Cache, LossTerm, Outputs, TermValue, Unit

__all__ = ["NPO", "npo_sum"]


def npo_sum(row_nll_B: torch.Tensor, ref_row_nll_B: torch.Tensor, beta: float) -> torch.Tensor:
    """Return the sum over rows of -(2/β) log σ(β (S_θ - S_0)), a scalar.

    Args:
        row_nll_B: S_θ, the summed -log p of each row's labelled tokens.
        ref_row_nll_B: S_0, the same under the model from before.
        beta: Inverse temperature, above 0.

    Example:
        At the start every row gives (2/β) ln 2 = 13.8629 for β = 0.1.

        >>> round(npo_sum(torch.tensor([3.0]), torch.tensor([3.0]), 0.1).item(), 4)
        13.8629
    """
    return -(2.0 / beta) * F.logsigmoid(beta * (row_nll_B - ref_row_nll_B)).sum()


@dataclass(frozen=True)
class NPO(LossTerm):
    """See the module."""

    beta: float = 0.1
    unit: ClassVar[Unit] = "rows"
    label: ClassVar[str] = "npo"

    @property
    def needs(self) -> frozenset[str]:
        """Return {token_nll, ref_row_nll}."""
        return frozenset({"token_nll", "ref_row_nll"})

    def __call__(self, outputs: Outputs, batch: Batch, cache: Cache) -> TermValue:
        """Return the sum over rows; logs how many nats the rows have lost."""
        assert outputs.token_nll is not None and cache.row_nll is not None
        row_nll_B = outputs.token_nll.sum(dim=1)
        lost = (row_nll_B - cache.row_nll).detach().sum()
        return TermValue(npo_sum(row_nll_B, cache.row_nll, self.beta), {"nats_lost": lost})
