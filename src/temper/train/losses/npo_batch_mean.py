"""NPO on one number a batch, the form of the WMDP code of the smoothness and weight-attribution papers.

    F = -(2/β) log σ( β [ A_θ(batch) - A_0(batch) ] ),      A = mean of -log p over all labelled tokens of the batch

Not the paper's NPO, which compares sequence sums row by row (`npo.py`). β acts on a mean over tokens here: for one row of T
tokens, β stands for β/T there (and the loss is 1/T of that one), so the β of those papers, 0.0125 to 0.05, is very close to ascent.
The value depends on what shares a batch: each micro-batch is one unit, so accumulation does not reproduce a larger batch.

Source: the code of Fan et al., Towards LLM Unlearning Resilient to Relearning Attacks (2025), WMDP part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from temper.train.losses.term import Batch, Cache, LossTerm, Outputs, TermValue, Unit, labelled_BL

__all__ = ["NPOBatchMean", "npo_of_batch"]


def npo_of_batch(mean_nll: torch.Tensor, ref_mean_nll: torch.Tensor, beta: float) -> torch.Tensor:
    """Return -(2/β) log σ(β (A_θ - A_0)), a scalar.

    Args:
        mean_nll: A_θ, a scalar.
        ref_mean_nll: A_0, a scalar.
        beta: Inverse temperature, above 0.

    Example:
        At the start (2/β) ln 2 = 27.7259 for β = 0.05.

        >>> round(npo_of_batch(torch.tensor(3.0), torch.tensor(3.0), 0.05).item(), 4)
        27.7259
    """
    return -(2.0 / beta) * F.logsigmoid(beta * (mean_nll - ref_mean_nll))


@dataclass(frozen=True)
class NPOBatchMean(LossTerm):
    """See the module.

    Attributes:
        beta: β, inverse temperature, above 0.
    """

    beta: float = 0.05
    unit: ClassVar[Unit] = "batches"
    label: ClassVar[str] = "npo_batch_mean"

    @property
    def needs(self) -> frozenset[str]:
        """Return {token_nll, ref_row_nll}."""
        return frozenset({"token_nll", "ref_row_nll"})

    def __call__(self, outputs: Outputs, batch: Batch, cache: Cache) -> TermValue:
        """Return the value of the batch; logs how many nats a token has lost."""
        assert outputs.token_nll is not None and cache.row_nll is not None
        tokens = labelled_BL(batch).sum()
        mean_nll, ref_mean_nll = outputs.token_nll.sum() / tokens, cache.row_nll.sum() / tokens
        return TermValue(
            npo_of_batch(mean_nll, ref_mean_nll, self.beta), {"nats_lost_per_token": (mean_nll - ref_mean_nll).detach()}
        )
