"""Answer preservation (AP): on retain rows, the row's own answer stays likelier than an alternative one.

    R = -(1/β) mean_b log σ( β [ S_θ(x, y_alt) - S_θ(x, y) ] ),    S = Σ_t -log p(y_t), summed over the row

The counterpart of training forget rows towards refusals: y_alt is the refusal, and the term keeps it from spreading to
the questions that must still be answered. There is no reference model. Its gradient fades as the answer is far ahead of
the refusal. β falling to 0 leaves descent on the answer and ascent on the alternative, each with weight 1/2.

Source: Yuan et al., A Closer Look at Machine Unlearning for Large Language Models (2024), "answer preservation".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from temper.train.losses.term import Batch, Cache, LossTerm, Outputs, TermValue, Unit

__all__ = ["AnswerPreservation", "preservation_sum"]


def preservation_sum(row_nll_B: torch.Tensor, alternative_nll_B: torch.Tensor, beta: float) -> torch.Tensor:
    """Return the sum over rows of -(1/β) log σ(β [S_θ(alt) - S_θ(row)]), a scalar.

    Args:
        row_nll_B: S_θ of each row's own answer.
        alternative_nll_B: S_θ of each row's alternative.
        beta: Inverse temperature, above 0.

    Example:
        Equal answers give ln 2 / β = 0.6931 for β = 1; an alternative ln 3 nats behind gives -ln 3/4 = 0.2877.

        >>> round(preservation_sum(torch.tensor([1.0]), torch.tensor([1.0]), 1.0).item(), 4)
        0.6931
        >>> round(preservation_sum(torch.tensor([1.0]), 1.0 + torch.tensor([3.0]).log(), 1.0).item(), 4)
        0.2877
    """
    return -(1.0 / beta) * F.logsigmoid(beta * (alternative_nll_B - row_nll_B)).sum()


@dataclass(frozen=True)
class AnswerPreservation(LossTerm):
    """See the module.

    Attributes:
        beta: β, inverse temperature, above 0.
    """

    beta: float = 0.1
    unit: ClassVar[Unit] = "rows"
    label: ClassVar[str] = "ap"

    @property
    def needs(self) -> frozenset[str]:
        """Return {token_nll, alt}."""
        return frozenset({"token_nll", "alt"})

    def __call__(self, outputs: Outputs, batch: Batch, cache: Cache) -> TermValue:
        """Return the sum over rows; logs by how many nats the own answers lead."""
        assert outputs.token_nll is not None
        assert outputs.alternative is not None and outputs.alternative.token_nll is not None
        row_nll_B = outputs.token_nll.sum(dim=1)
        alternative_nll_B = outputs.alternative.token_nll.sum(dim=1)
        lead = (alternative_nll_B - row_nll_B).detach().sum()
        return TermValue(preservation_sum(row_nll_B, alternative_nll_B, self.beta), {"nats_ahead": lead})
