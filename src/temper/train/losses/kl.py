"""KL divergence from the model before to the model now, at every position that predicts a token.

    R = mean over positions of Σ_v p_0(v) (log p_0(v) - log p_θ(v))

Forward KL, teacher = the model from before. Padding and the last token of a row predict nothing and are left out; the
reference implementations average over them too.

Source: Maini et al., TOFU (2024), "KL minimization"; the mask is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from temper.train.losses.term import Batch, Cache, LossTerm, Outputs, TermValue, Unit

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
    """See the module."""

    unit: ClassVar[Unit] = "positions"
    label: ClassVar[str] = "kl"

    @property
    def needs(self) -> frozenset[str]:
        """Return {log_probs, ref_log_probs}."""
        return frozenset({"log_probs", "ref_log_probs"})

    def __call__(self, outputs: Outputs, batch: Batch, cache: Cache) -> TermValue:
        """Return the sum over positions."""
        assert outputs.log_probs is not None and cache.log_probs is not None
        total = kl_sum(cache.log_probs, outputs.log_probs)
        return TermValue(total, {"kl": total.detach()})
