"""CE-U: cross-entropy to the model's own distribution with the true token taken out.

    F = mean over kept t of -Σ_v q(v) log p_θ(v),      q = softmax(z_θ(t) with entry y_t at -∞), without gradient

The gradient with respect to the logits of a kept position is (p_θ - q)/N: p_θ(y_t) at the true token, and the same mass
spread back over the others in proportion to what they have. It is bounded by 1 and vanishes as the token is forgotten, so
no reference and no retain term are needed to keep it from running away.

The first `skip` answer tokens of each row are left alone, so that the model still starts an answer.

Source: Yang, CE-U: Cross Entropy Unlearning (2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from temper.train.losses.term import Batch, Cache, LossTerm, Outputs, TermValue, Unit, next_tokens_N, predicting_BL

__all__ = ["CrossEntropyUnlearning", "ceu_sum", "kept_BL"]


def kept_BL(batch: Batch, skip: int) -> torch.Tensor:
    """Return True at the labelled positions behind the first `skip` of their row, shape (B, L)."""
    mask_BL = predicting_BL(batch)
    return mask_BL & (mask_BL.cumsum(dim=1) > skip)


def ceu_sum(log_probs_NV: torch.Tensor, tokens_N: torch.Tensor) -> torch.Tensor:
    """Return Σ_n of the cross-entropy from q to p_θ, a scalar; 0 without positions. q carries no gradient.

    Args:
        log_probs_NV: log p_θ.
        tokens_N: The true token at each position.

    Example:
        p = (1/2, 1/4, 1/4) with the first token true: q = (0, 1/2, 1/2), so ln 4 = 1.3863.

        >>> round(ceu_sum(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([0])).item(), 4)
        1.3863
    """
    without_NV = log_probs_NV.detach().scatter(1, tokens_N.unsqueeze(1), float("-inf"))
    return -(torch.softmax(without_NV, dim=-1) * log_probs_NV).sum()


@dataclass(frozen=True)
class CrossEntropyUnlearning(LossTerm):
    """See the module.

    Attributes:
        skip: How many answer tokens at the start of a row are left alone.
        is_alone: Whether no retain term holds the model; the loss of the forget tokens is then watched for collapse.
    """

    skip: int = 1
    is_alone: bool = False
    unit: ClassVar[Unit] = "tokens"
    label: ClassVar[str] = "ceu"

    @property
    def needs(self) -> frozenset[str]:
        """Return {log_probs:labelled}."""
        return frozenset({"log_probs:labelled"})

    @property
    def pushes_away(self) -> bool:
        """Return whether nothing else holds the model: the target without the true token has no end then."""
        return self.is_alone

    def count(self, batch: Batch) -> int:
        """Return the number of labelled tokens that are kept; a row no longer than `skip` has none."""
        return int(kept_BL(batch, self.skip).sum())

    def __call__(self, outputs: Outputs, batch: Batch, cache: Cache) -> TermValue:
        """Return the sum over kept tokens; logs their -log p."""
        kept_N = kept_BL(batch, self.skip)[predicting_BL(batch)]
        log_probs_NV = outputs.log_probs["labelled"][kept_N]
        tokens_N = next_tokens_N(batch, "labelled")[kept_N]
        nll = -log_probs_NV.detach().gather(1, tokens_N.unsqueeze(1)).sum()
        return TermValue(ceu_sum(log_probs_NV, tokens_N), {"nll": nll})
