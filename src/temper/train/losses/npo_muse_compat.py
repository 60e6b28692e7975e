"""What the MUSE code calls NPO: the log-sigmoid of a difference of raw logits, for every vocabulary entry of every cell.

    F = -(2/β) mean over cells and v of log σ( β ( z_0(v) - z_θ(v) ) )

Not NPO: there is no softmax, the true token plays no part, and adding a constant to all logits, which changes no
probability, changes the loss. It pushes every logit down and counts prompt and padding. For reproducing MUSE tables only.

Source: the code of Shi et al., MUSE (2024), `iterative.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from temper.train.losses.term import Batch, Cache, LossTerm, Outputs, TermValue, Unit

__all__ = ["NPOMuseCompat", "logit_npo_sum"]


def logit_npo_sum(logits_NV: torch.Tensor, ref_logits_NV: torch.Tensor, beta: float) -> torch.Tensor:
    """Return the sum over cells of the mean over the vocabulary of -(2/β) log σ(β (z_0 - z_θ)), a scalar.

    Args:
        logits_NV: z_θ.
        ref_logits_NV: z_0.
        beta: Inverse temperature, above 0.

    Example:
        Two cells at the start: 2 · (2/β) ln 2 = 27.7259 for β = 0.1. One cell, β = 1, logits down by (ln 3, 0):
        -2 · (ln 3/4 + ln 1/2)/2 = 0.9808.

        >>> z = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
        >>> round(logit_npo_sum(z, z, 0.1).item(), 4)
        27.7259
        >>> round(logit_npo_sum(torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log(), 1.0).item(), 4)
        0.9808
    """
    return -(2.0 / beta) * F.logsigmoid(beta * (ref_logits_NV - logits_NV)).mean(dim=-1).sum()


@dataclass(frozen=True)
class NPOMuseCompat(LossTerm):
    """See the module.

    Attributes:
        beta: β, inverse temperature, above 0.
    """

    beta: float = 0.1
    unit: ClassVar[Unit] = "cells"
    label: ClassVar[str] = "npo_muse_compat"

    @property
    def needs(self) -> frozenset[str]:
        """Return {logits:all, ref_logits:all}."""
        return frozenset({"logits:all", "ref_logits:all"})

    def __call__(self, outputs: Outputs, batch: Batch, cache: Cache) -> TermValue:
        """Return the sum over cells; logs by how much the mean logit has fallen."""
        logits_NV, ref_logits_NV = outputs.logits["all"], cache.logits["all"]
        fallen = (ref_logits_NV - logits_NV).detach().mean(dim=-1).sum()
        return TermValue(logit_npo_sum(logits_NV, ref_logits_NV, self.beta), {"logit_fall": fallen})
