"""Weighted gradient ascent: each token's ascent is scaled by how likely the token still is.

    F = -mean over labelled t of w_t n_t,      n_t = -log p_t,      w_t = p_t^β1 (1 - p_t)^β2, without gradient

| term | β1 | β2 | what it does |
| --- | --- | --- | --- |
| WGA | β | 0 | tokens that are already unlikely are left alone, so ascent no longer runs away on them |
| SatImp | β1 | β2 | also leaves near-certain tokens (often glue words) and works on those in between |

(0, 0) is gradient ascent.

Source: Wang et al., Rethinking LLM Unlearning Objectives: A Gradient Perspective (2025), "WGA"; Yang et al., Exploring Criteria of
Loss Reweighting to Enhance LLM Unlearning (2025), "SatImp".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from temper.train.losses.term import Batch, Cache, LossTerm, Outputs, TermValue, Unit

__all__ = ["WGA", "SatImp", "saturation_sum"]


def saturation_sum(token_nll_BL: torch.Tensor, beta_saturation: float, beta_importance: float) -> torch.Tensor:
    """Return -Σ w_t n_t over labelled tokens, a scalar at most 0.

    Args:
        token_nll_BL: n_t of each labelled token, 0 elsewhere.
        beta_saturation: β1, exponent of p, at least 0.
        beta_importance: β2, exponent of 1 - p, at least 0.

    Example:
        Two tokens of probability 1/2 and 1/4 with β1 = 1, β2 = 1: -(1/4 ln 2 + 3/16 · 2 ln 2) = -(5/8) ln 2.

        >>> value = saturation_sum(torch.tensor([[0.5, 0.25]]).log().neg(), 1.0, 1.0)
        >>> value.div(torch.tensor(2.0).log()).item()
        -0.625
    """
    nll_BL = token_nll_BL.detach()
    # expm1 keeps the digits of 1 - p where p is near 1; rounding may put it just under 0, where a root would be NaN
    missing_BL = torch.expm1(-nll_BL).neg().clamp(min=0)
    weights_BL = (-beta_saturation * nll_BL).exp() * missing_BL.pow(beta_importance)
    return -(weights_BL * token_nll_BL).sum()


def _value(outputs: Outputs, beta_saturation: float, beta_importance: float) -> TermValue:
    assert outputs.token_nll is not None
    return TermValue(
        saturation_sum(outputs.token_nll, beta_saturation, beta_importance), {"nll": outputs.token_nll.detach().sum()}
    )


@dataclass(frozen=True)
class WGA(LossTerm):
    """See the module.

    Attributes:
        beta: β, exponent of the token's probability, at least 0.
    """

    beta: float = 1.0
    unit: ClassVar[Unit] = "tokens"
    label: ClassVar[str] = "wga"

    @property
    def needs(self) -> frozenset[str]:
        """Return {token_nll}."""
        return frozenset({"token_nll"})

    def __call__(self, outputs: Outputs, batch: Batch, cache: Cache) -> TermValue:
        """Return the sum over labelled tokens; logs their unweighted -log p."""
        return _value(outputs, self.beta, 0.0)


@dataclass(frozen=True)
class SatImp(LossTerm):
    """See the module.

    Attributes:
        beta_saturation: β1, exponent of the token's probability, at least 0.
        beta_importance: β2, exponent of one minus it, at least 0.
    """

    beta_saturation: float = 5.0
    beta_importance: float = 1.0
    unit: ClassVar[Unit] = "tokens"
    label: ClassVar[str] = "satimp"

    @property
    def needs(self) -> frozenset[str]:
        """Return {token_nll}."""
        return frozenset({"token_nll"})

    def __call__(self, outputs: Outputs, batch: Batch, cache: Cache) -> TermValue:
        """Return the sum over labelled tokens; logs their unweighted -log p."""
        return _value(outputs, self.beta_saturation, self.beta_importance)
