"""The reflection-token penalty: how likely a model is to start a thought, or to think again.

    P = mean over rows, their positions t and the tokens w of a list of p_θ(w | before t)

Added to RMU on the forget texts, it is the baseline "reflection token penalty" (RTP) of the R2MU publication. The distribution is read off
the same pass as the other terms' states.

Example:
    Two positions, V = 3, list {1, 2}: p = (.5, .3, .2) and (1, 0, 0) give (.25 + 0) / 2 = .125.

Source: released script of R2MU (2025), which looks words up as they stand and so misses those that begin with a blank or are unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from temper.train.losses.term import Batch, Cache, LossTerm, Outputs, TermValue, Unit, followed_BL

__all__ = ["ReflectionPenalty", "listed_probability_N"]


def listed_probability_N(log_probs_NV: torch.Tensor, tokens_K: torch.Tensor) -> torch.Tensor:
    """Return the mean probability of the listed tokens at each position, shape (N,).

    Args:
        log_probs_NV: log p at each position.
        tokens_K: The tokens, at least one.

    Example:
        >>> p = torch.tensor([[0.5, 0.3, 0.2]])
        >>> round(listed_probability_N(p.log(), torch.tensor([1, 2])).item(), 6)
        0.25
    """
    return log_probs_NV[:, tokens_K].exp().mean(dim=1)


@dataclass(frozen=True)
class ReflectionPenalty(LossTerm):
    """Mean probability of some tokens where a next token is predicted.

    Attributes:
        tokens: Their ids.
    """

    tokens: tuple[int, ...] = ()
    unit: ClassVar[Unit] = "rows"
    label: ClassVar[str] = "reflection"

    @property
    def needs(self) -> frozenset[str]:
        """Return {log_probs:nonpad}."""
        return frozenset({"log_probs:nonpad"})

    def __call__(self, outputs: Outputs, batch: Batch, cache: Cache) -> TermValue:
        """Return Σ_b of the mean over each row's positions."""
        log_probs_NV = outputs.log_probs["nonpad"]
        here_BL = followed_BL(batch)
        value_N = listed_probability_N(log_probs_NV, torch.tensor(self.tokens, device=log_probs_NV.device))
        row_N = here_BL.nonzero()[:, 0]
        share_N = (1.0 / here_BL.sum(dim=1).clamp(min=1)).to(value_N.dtype)[row_N]
        total = (value_N * share_N).sum()
        return TermValue(total, {"reflection_probability": total.detach()})
