"""UNDIAL: distil from the model before, whose own distribution has been pushed away from the true token.

    F = mean over labelled t of -Σ_v q(v) log p_θ(v),      q = softmax(z_0(t) - β·onehot(y_t))

The target is fixed, so the loss is bounded below by the entropy of q and cannot run away. q is taken from log p_0, which
differs from the logits z_0 by a constant in v and gives the same softmax. With β = 0 it is plain distillation: nothing
moves at the original weights.

Only labelled positions count. The reference implementation averages over prompt and padding too, and there applies the
penalty to the vocabulary column |V| - 100; neither is wanted.

Source: Dong et al., UNDIAL: Self-Distillation with Adjusted Logits for Robust Unlearning (2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from temper.train.losses.term import Batch, Cache, LossTerm, Outputs, TermValue, Unit, next_tokens_N

__all__ = ["Undial", "adjusted_log_probs", "undial_sum"]


def adjusted_log_probs(ref_log_probs_NV: torch.Tensor, tokens_N: torch.Tensor, beta: float) -> torch.Tensor:
    """Return log q, the log-softmax of log p_0 with β taken from the true token, shape (N, V).

    Args:
        ref_log_probs_NV: log p_0.
        tokens_N: The true token at each position.
        beta: How far the true token is pushed down, in nats, at least 0.
    """
    rows_N = torch.arange(len(tokens_N), device=tokens_N.device)
    shifted_NV = ref_log_probs_NV.clone()
    shifted_NV[rows_N, tokens_N] -= beta
    return torch.log_softmax(shifted_NV, dim=-1)


def undial_sum(log_probs_NV: torch.Tensor, ref_log_probs_NV: torch.Tensor, tokens_N: torch.Tensor, beta: float) -> torch.Tensor:
    """Return Σ_n of the cross-entropy from q to p_θ, a scalar; q carries no gradient.

    Args:
        log_probs_NV: log p_θ.
        ref_log_probs_NV: log p_0.
        tokens_N: The true token at each position.
        beta: How far the true token is pushed down, in nats.

    Example:
        p_0 = (2/3, 1/3) with the first token true and β = ln 2 gives q = (1/2, 1/2); against p_θ = (1/4, 3/4):
        (ln 4 + ln 4/3)/2 = 0.837.

        >>> p_0, p = torch.tensor([[2 / 3, 1 / 3]]).log(), torch.tensor([[0.25, 0.75]]).log()
        >>> round(undial_sum(p, p_0, torch.tensor([0]), torch.tensor(2.0).log().item()).item(), 4)
        0.837
    """
    target_NV = adjusted_log_probs(ref_log_probs_NV.detach(), tokens_N, beta).exp()
    return -(target_NV * log_probs_NV).sum()


@dataclass(frozen=True)
class Undial(LossTerm):
    """See the module.

    Attributes:
        beta: β, how far the true token is pushed down, in nats, at least 0.
    """

    beta: float = 10.0
    unit: ClassVar[Unit] = "tokens"
    label: ClassVar[str] = "undial"

    @property
    def needs(self) -> frozenset[str]:
        """Return {log_probs:labelled, ref_log_probs:labelled}."""
        return frozenset({"log_probs:labelled", "ref_log_probs:labelled"})

    def __call__(self, outputs: Outputs, batch: Batch, cache: Cache) -> TermValue:
        """Return the sum over labelled tokens; logs their -log p."""
        log_probs_NV, tokens_N = outputs.log_probs["labelled"], next_tokens_N(batch, "labelled")
        nll = -log_probs_NV.detach().gather(1, tokens_N.unsqueeze(1)).sum()
        return TermValue(undial_sum(log_probs_NV, cache.log_probs["labelled"], tokens_N, self.beta), {"nll": nll})
