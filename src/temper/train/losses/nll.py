"""Negative log-likelihood of the labelled tokens, the mean over all labelled tokens of the step.

    R = (1/N_tok) Σ_rows Σ_t -log p(y_t | y_<t)

As the retain term this is GradDiff's and NPO's; on forget rows whose answers were replaced by refusals it is PO's forget
term (`methods` IdkNLL). With `sign=-1` it is gradient ascent (GA), which has no lower bound: collapse is expected of it
when nothing holds it.

Source: Maini et al., TOFU (2024), "GA", "GradDiff"; the token mean is that of the reference implementations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from temper.train.losses.term import Batch, Cache, LossTerm, Outputs, TermValue, Unit

__all__ = ["NLL", "nll_sum"]


def nll_sum(token_nll_BL: torch.Tensor, sign: int = 1) -> torch.Tensor:
    """Return the signed sum of -log p over labelled tokens, a scalar.

    Args:
        token_nll_BL: -log p of each labelled token, 0 elsewhere.
        sign: 1 to descend, -1 to ascend.

    Example:
        Two tokens of probability 1/2 and 1/4: ln 2 + 2 ln 2 = 3 ln 2.

        >>> nll_sum(torch.tensor([[0.5, 0.25]]).log().neg()).div(torch.log(torch.tensor(2.0))).item()
        3.0
    """
    return sign * token_nll_BL.sum()


@dataclass(frozen=True)
class NLL(LossTerm):
    """See the module."""

    sign: Literal[1, -1] = 1
    unit: ClassVar[Unit] = "tokens"
    label: ClassVar[str] = "nll"

    @property
    def needs(self) -> frozenset[str]:
        """Return {token_nll}."""
        return frozenset({"token_nll"})

    @property
    def pushes_away(self) -> bool:
        """Return whether this is ascent."""
        return self.sign == -1

    def __call__(self, outputs: Outputs, batch: Batch, cache: Cache) -> TermValue:
        """Return the signed sum over labelled tokens."""
        assert outputs.token_nll is not None
        total = nll_sum(outputs.token_nll, self.sign)
        return TermValue(total, {"nll": self.sign * total.detach()})
