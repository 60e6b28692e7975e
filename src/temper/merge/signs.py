"""Elect a sign for every entry and merge the task vectors that agree with it: the last two steps of TIES.

    γ_p = sign(Σ_t τ̂_t,p)                      a sum of zero counts as positive, or as the majority of the model
    A_p = {t : τ̂_t,p ≠ 0 and sign(τ̂_t,p) = γ_p}
    merged_p = Σ_{t∈A_p} w_t τ̂_t,p / d_p       d_p: |A_p|, or Σ_{t∈A_p} w_t, or 1

| symbol | here | shape |
| --- | --- | --- |
| τ̂_t | `rows`, trimmed or with entries dropped | (P,) each |
| w_t | `weights` | one number a row |
| γ | `sign_P` | (P,), 1 or -1 |

Source: Yadav et al., TIES-Merging (2023), sections 3.2 and 3.3; where weights come in differs between implementations (`temper.merge.ties`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from temper.merge.method import weighted_sum

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Convention", "signs_merged"]

Convention = Literal["peft", "mergekit", "reference"]

_NO_DIVISOR = 1e-8
"""Below it a sum of weights is no divisor; the entry is then not divided, as in mergekit."""


def signs_merged(
    rows: Sequence[Tensor],
    weights: Sequence[float],
    convention: Convention = "peft",
    *,
    normalize: bool = True,
    majority: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return the merged change and the sums that elected its signs, (P,) each.

    Args:
        rows: τ̂_t.
        weights: w_t; `peft` applies them after the election and divides by |A|, `mergekit` before it and divides by their sum over A.
        convention: Whose form.
        normalize: For `mergekit`: whether it divides.
        majority: For `reference`: its sign stands in where a sum is zero; 0 leaves such entries at zero.

    Example:
        >>> import torch
        >>> merged, _ = signs_merged([torch.tensor([1.0, -1.0]), torch.tensor([3.0, 0.5])], [1.0, 1.0])
        >>> merged.tolist()
        [2.0, -1.0]
    """
    ones = [1.0] * len(rows)
    weighs_votes = convention == "mergekit"
    voters = [row * weight for row, weight in zip(rows, weights, strict=True)] if weighs_votes and list(weights) != ones else rows
    total_P = weighted_sum(voters, ones)
    is_positive = total_P > 0 if convention == "reference" and majority <= 0 else total_P >= 0
    sign_P = is_positive.to(total_P.dtype).mul_(2.0).sub_(1.0)
    merged_P, divisor_P = total_P.new_zeros(total_P.shape), total_P.new_zeros(total_P.shape)
    for row, value, share in zip(voters, ones if weighs_votes else weights, weights if weighs_votes else ones, strict=True):
        size_P = (row * sign_P).clamp_(min=0.0)  # |τ̂| where it agrees, else 0
        merged_P.add_(size_P, alpha=value)
        divisor_P.add_(size_P.sign_(), alpha=share)
    merged_P.mul_(sign_P)
    if convention != "mergekit":
        merged_P.div_(divisor_P.clamp_(min=1.0))
    elif normalize:
        merged_P.div_(divisor_P.masked_fill_(divisor_P.abs() < _NO_DIVISOR, 1.0))
    if convention == "reference" and majority == 0:
        merged_P.masked_fill_(total_P == 0, 0.0)
    return merged_P, total_P
