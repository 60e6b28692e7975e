"""Drop entries of a task vector at random and rescale the rest.

    kept_p = u_p < k,  u uniform on [0, 1)        τ̂ = τ · kept / k        so that E[τ̂] = τ

`l1` divides by the share of Σ|τ| that was kept instead: the sum of absolute values stays as it was. That is not unbiased: where large
entries are dropped the small ones grow by more, and where they are kept by less. mergekit does this.

u is a function of the seed, the model's key and the tensor's name, whatever else is merged and in which order.

Source: Yu et al., Language Models are Super Mario (DARE, 2024); peft's `random_pruning`; mergekit's `rescale`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from temper.draws import generator

if TYPE_CHECKING:
    from torch import Tensor

    from temper.merge.method import Unit

__all__ = ["Rescale", "drop", "prune_at_random"]

Rescale = Literal["unbiased", "l1"]

_AT_ONCE = 1 << 17


def drop(row: Tensor, density: float, draw: np.random.Generator, rescale: Rescale = "unbiased") -> None:
    """Drop entries of a flat row, in place, and rescale the others.

    Args:
        row: τ, (P,), float32 or float64; becomes τ̂.
        density: k, the probability with which an entry stays.
        draw: Gives P numbers.
        rescale: `unbiased` divides by k, `l1` keeps Σ|τ|.
    """
    if density == 1:
        return
    values = row.numpy()
    before = after = 0.0
    for start in range(0, len(values), _AT_ONCE):
        piece = values[start : start + _AT_ONCE]
        kept = draw.random(len(piece)) < density
        if rescale == "l1":
            before += float(np.abs(piece).sum(dtype=np.float64))
        piece *= kept
        if rescale == "l1":
            after += float(np.abs(piece).sum(dtype=np.float64))
    if rescale == "unbiased":
        row.div_(density)
    elif after > 0:
        row.mul_(before / after)


def prune_at_random(unit: Unit, density: float, rescale: Rescale) -> None:
    """Drop entries of every row of a tensor that is not zero, each row by draws of its own."""
    for row, key in zip(unit.rows, unit.keys, strict=True):
        if bool(row.any()):
            drop(row, density, generator(unit.seed, "dare", key, unit.name), rescale)
