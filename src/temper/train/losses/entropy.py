"""Maximum entropy: forget answers are to be predicted by a model that has no opinion.

    F = mean over labelled t of KL(Uniform ‖ p_θ(t)) = mean over labelled t of ( -log V - (1/V) Σ_v log p_θ(v) )

At least 0, and 0 where every token of the vocabulary is equally likely. The value grows slowly with the model's
confidence, and with a large vocabulary most of it comes from tokens nobody would say: a small weight is enough.

Source: Yuan et al., A Closer Look at Machine Unlearning for Large Language Models (2024), "maximizing entropy".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from temper.train.losses.term import Batch, Cache, LossTerm, Outputs, TermValue, Unit

__all__ = ["UniformKL", "uniform_kl_sum"]


def uniform_kl_sum(log_probs_NV: torch.Tensor) -> torch.Tensor:
    """Return Σ_n KL(Uniform ‖ p_θ), a scalar, at least 0.

    Args:
        log_probs_NV: log p_θ.

    Example:
        p = (1/4, 3/4): (ln 2 + ln 2/3)/2 = 0.1438.

        >>> round(uniform_kl_sum(torch.tensor([[0.25, 0.75]]).log()).item(), 4)
        0.1438
    """
    return (-math.log(log_probs_NV.shape[-1]) - log_probs_NV.mean(dim=-1)).sum()


@dataclass(frozen=True)
class UniformKL(LossTerm):
    """See the module."""

    unit: ClassVar[Unit] = "tokens"
    label: ClassVar[str] = "me"

    @property
    def needs(self) -> frozenset[str]:
        """Return {log_probs:labelled}."""
        return frozenset({"log_probs:labelled"})

    def __call__(self, outputs: Outputs, batch: Batch, cache: Cache) -> TermValue:
        """Return the sum over labelled tokens; logs the entropy of the predictions, in nats."""
        log_probs_NV = outputs.log_probs["labelled"]
        detached_NV = log_probs_NV.detach()
        return TermValue(uniform_kl_sum(log_probs_NV), {"entropy": -(detached_NV.exp() * detached_NV).sum()})
