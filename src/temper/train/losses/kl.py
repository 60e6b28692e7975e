"""KL divergence from the model before to the model now, at every position that predicts a token.

    R = mean over positions of Σ_v p_0(v) (log p_0(v) - log p_θ(v))

Forward KL, teacher = the model from before. Which positions count is `mask`:
`labelled` those whose next token is scored; `nonpad` every token with a successor in its row, the prompt too;
`all` every cell, padding too, which is the average of the reference implementations (for parity only: the value then
depends on what shares a batch).

Source: Maini et al., TOFU (2024), "KL minimization"; the mask is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from temper.train.losses.term import Batch, Cache, LossTerm, Outputs, Positions, TermValue, Unit, positions_BL

__all__ = ["KL", "kl_sum"]


def kl_sum(ref_log_probs_NV: torch.Tensor, log_probs_NV: torch.Tensor) -> torch.Tensor:
    """Return Σ_n KL(p_0 ‖ p_θ), a scalar, at least 0.

    Args:
        ref_log_probs_NV: log p_0.
        log_probs_NV: log p_θ.

    Example:
        p_0 = (1/2, 1/2), p_θ = (1/4, 3/4): (ln 2 + ln 2/3)/2 = 0.1438.

        >>> p = torch.tensor([[0.5, 0.5]]).log(); q = torch.tensor([[0.25, 0.75]]).log()
        >>> round(kl_sum(p, q).item(), 4)
        0.1438
    """
    return (ref_log_probs_NV.exp() * (ref_log_probs_NV - log_probs_NV)).sum()


@dataclass(frozen=True)
class KL(LossTerm):
    """See the module.

    Attributes:
        mask: Which positions are compared; the sum is divided by their number.
    """

    mask: Positions = "nonpad"
    unit: ClassVar[Unit] = "positions"
    label: ClassVar[str] = "kl"

    @property
    def needs(self) -> frozenset[str]:
        """Return {log_probs:MASK, ref_log_probs:MASK}."""
        return frozenset({f"log_probs:{self.mask}", f"ref_log_probs:{self.mask}"})

    def count(self, batch: Batch) -> int:
        """Return the number of compared positions: labelled tokens, positions or cells."""
        return int(positions_BL(batch, self.mask).sum())

    def __call__(self, outputs: Outputs, batch: Batch, cache: Cache) -> TermValue:
        """Return the sum over positions."""
        total = kl_sum(cache.log_probs[self.mask], outputs.log_probs[self.mask])
        return TermValue(total, {"kl": total.detach()})
