"""Direct preference optimisation on forget rows: another answer preferred to the row's own, against the model from before.

    F = -(2/β) mean_b log σ( β [ (S_0 - S_θ)(x, y_alt) - (S_0 - S_θ)(x, y) ] ),    S = Σ_t -log p(y_t), summed over the row

The alternative y_alt is a refusal (DPO-idk) or an answer that the model from before gave to the same prompt (AltPO). The
factor 2/β is that of NPO, which is this loss without the preferred half; some code leaves it out, and then small β have
no limit. With both answers equal the loss is (2/β) ln 2 and pushes nothing. As β falls to 0 the gradient is that of
S_θ(x, y_alt) - S_θ(x, y).

S_0 of both answers does not change: it is computed once for every row.

Source: Rafailov et al., Direct Preference Optimization (2023), equation 7; Maini et al., TOFU (2024), and Mekala et al.,
Alternate Preference Optimization (2024), for its use here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from temper.train.losses.term import Batch, Cache, LossTerm, Outputs, TermValue, Unit

__all__ = ["DPO", "dpo_sum"]


def dpo_sum(
    row_nll_B: torch.Tensor,
    ref_row_nll_B: torch.Tensor,
    alternative_nll_B: torch.Tensor,
    ref_alternative_nll_B: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """Return the sum over rows of -(2/β) log σ(β [(S_0 - S_θ)(alt) - (S_0 - S_θ)(row)]), a scalar.

    Args:
        row_nll_B: S_θ of each row, the rejected answer.
        ref_row_nll_B: S_0 of each row.
        alternative_nll_B: S_θ of each row's alternative, the preferred answer.
        ref_alternative_nll_B: S_0 of each row's alternative.
        beta: Inverse temperature, above 0.

    Example:
        At the start a row gives 2 ln 2 = 1.3863 for β = 1. Once the alternative has gained ln 2 nats and the row has
        lost ln 2, σ(2 ln 2) = 4/5, so the row gives 2 ln(5/4) = 0.4463.

        >>> two = torch.tensor([2.0]).log()
        >>> round(dpo_sum(two, two, two, two, 1.0).item(), 4)
        1.3863
        >>> round(dpo_sum(2 * two, two, 0 * two, two, 1.0).item(), 4)
        0.4463
    """
    gained_B = (ref_alternative_nll_B - alternative_nll_B) - (ref_row_nll_B - row_nll_B)
    return -(2.0 / beta) * F.logsigmoid(beta * gained_B).sum()


@dataclass(frozen=True)
class DPO(LossTerm):
    """See the module.

    Attributes:
        beta: β, inverse temperature, above 0.
    """

    beta: float = 0.1
    unit: ClassVar[Unit] = "rows"
    label: ClassVar[str] = "dpo"

    @property
    def needs(self) -> frozenset[str]:
        """Return {token_nll, ref_row_nll, alt}."""
        return frozenset({"token_nll", "ref_row_nll", "alt"})

    def __call__(self, outputs: Outputs, batch: Batch, cache: Cache) -> TermValue:
        """Return the sum over rows; logs how many nats the rows have lost and their alternatives gained."""
        assert outputs.token_nll is not None and cache.row_nll is not None
        assert outputs.alternative is not None and outputs.alternative.token_nll is not None
        assert cache.alternative is not None and cache.alternative.row_nll is not None
        row_nll_B = outputs.token_nll.sum(dim=1)
        alternative_nll_B = outputs.alternative.token_nll.sum(dim=1)
        total = dpo_sum(row_nll_B, cache.row_nll, alternative_nll_B, cache.alternative.row_nll, self.beta)
        return TermValue(
            total,
            {
                "nats_lost": (row_nll_B - cache.row_nll).detach().sum(),
                "nats_gained": (cache.alternative.row_nll - alternative_nll_B).detach().sum(),
            },
        )
