"""Margin of the top token: the distance of the largest logit to the mean one, squared.

    F = mean over labelled t of ( max_v z_θ(t, v) - mean_v z_θ(t, v) )²

0 where all logits are equal, so like maximum entropy it flattens the predictions, but only through the top token. The
value does not change when a constant is added to all logits, so log-probabilities serve as well as logits.

Only labelled positions count; the reference implementation averages over prompt and padding too.

Source: Entesari et al., Constrained Entropic Unlearning: A Primal-Dual Framework (2025), and its code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from temper.train.losses.term import Batch, Cache, LossTerm, Outputs, TermValue, Unit

__all__ = ["Margin", "margin_N", "margin_sum"]


def margin_N(scores_NV: torch.Tensor) -> torch.Tensor:
    """Return max_v - mean_v of each position, shape (N,); tied maxima share the gradient."""
    return scores_NV.amax(dim=-1) - scores_NV.mean(dim=-1)


def margin_sum(scores_NV: torch.Tensor) -> torch.Tensor:
    """Return Σ_n (max_v - mean_v)², a scalar, at least 0.

    Args:
        scores_NV: Logits, or log-probabilities.

    Example:
        (3 - 1)² + (1 - 1)² = 4.

        >>> margin_sum(torch.tensor([[3.0, 0.0, 0.0], [1.0, 1.0, 1.0]])).item()
        4.0
    """
    return margin_N(scores_NV).pow(2).sum()


@dataclass(frozen=True)
class Margin(LossTerm):
    """See the module."""

    unit: ClassVar[Unit] = "tokens"
    label: ClassVar[str] = "margin"

    @property
    def needs(self) -> frozenset[str]:
        """Return {log_probs:labelled}."""
        return frozenset({"log_probs:labelled"})

    def __call__(self, outputs: Outputs, batch: Batch, cache: Cache) -> TermValue:
        """Return the sum over labelled tokens; logs the margin itself, in nats."""
        log_probs_NV = outputs.log_probs["labelled"]
        return TermValue(margin_sum(log_probs_NV), {"top_margin": margin_N(log_probs_NV.detach()).sum()})
