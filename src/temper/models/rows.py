"""Which output rows of the weight matrices answer most to a loss (SURE).

    saliency of row i of W = ‖∂ℓ/∂W_i‖₂,  W (out, in);   rows above a percentile of the saliencies train, the others do not

| symbol | meaning |
|---|---|
| ∂ℓ/∂W | gradient of the forget loss at the original weights |
| percentile | share of rows that stay as they are, in per cent; 90 in the authors' code |

The number of rows is exact: the top (100 − percentile) %, rounded up, less those whose gradient is zero. Equal saliencies are
ordered by parameter name, then row number, so that a mask does not depend on the order in which gradients arrive.

Where this differs from the authors' code: that ranks again at every step and lets the entries of vectors compete; here the
rows are chosen once, before training, because a weight that may change only now and then cannot be said to be untouched.

Source: the saliency map of SURE, as in the repository zzwjames/FailureLLMUnlearning.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from temper.errors import ModelError

__all__ = ["row_masks", "top_rows", "transposed_weights"]


def transposed_weights(model: nn.Module) -> frozenset[str]:
    """Return the names of weights stored as (in, out), as GPT-2 does."""
    from transformers.pytorch_utils import Conv1D

    return frozenset(
        f"{name}.weight" if name else "weight" for name, module in model.named_modules() if isinstance(module, Conv1D)
    )


def top_rows(saliency_N: np.ndarray, percentile: float) -> np.ndarray:
    """Return a boolean array: the top (100 − percentile) % of the saliencies, rounded up, none that is zero.

    Args:
        saliency_N: One number a row, not negative.
        percentile: In [0, 100).

    Example:
        >>> top_rows(np.array([0.5, 2.0, 1.0, 2.0, 0.0]), percentile=60).tolist()
        [False, True, False, True, False]
        >>> top_rows(np.array([1.0, 1.0, 1.0]), percentile=90).tolist()  # the first of equals
        [True, False, False]
    """
    if not 0 <= percentile < 100:
        raise ModelError(f"percentile = {percentile}: must be at least 0 and below 100")
    # rounded before it is rounded up: 10 * (100 - 90) / 100 may come out a hair above 1
    budget = math.ceil(round(len(saliency_N) * (100 - percentile) / 100, 9))
    chosen = np.zeros(len(saliency_N), dtype=bool)
    chosen[np.argsort(-saliency_N, kind="stable")[:budget]] = True
    result: np.ndarray = chosen & (saliency_N > 0)
    return result


def row_masks(
    gradients: Iterable[tuple[str, Tensor]],
    percentile: float = 90.0,
    scope: Literal["global", "tensor"] = "global",
    *,
    transposed: Container[str] = frozenset(),
) -> dict[str, Tensor]:
    """Return a mask for every matrix among the gradients; some may select nothing.

    The masks are views that repeat one byte a row; clone one before writing to it.

    Args:
        gradients: Parameter name and its gradient; read once, one after the other. What is not a matrix is passed over.
        percentile: In [0, 100).
        scope: Whether rows compete with those of all matrices, or of their own.
        transposed: Names of matrices stored as (in, out), whose output rows are columns.

    Raises:
        ModelError: A gradient is not finite, or the percentile is out of range.
    """
    found: dict[str, tuple[tuple[int, ...], np.ndarray]] = {}
    for name, gradient in gradients:
        if gradient.dim() != 2:
            continue
        norms = torch.linalg.vector_norm(gradient.detach(), dim=0 if name in transposed else 1, dtype=torch.float32)
        if not bool(torch.isfinite(norms).all()):
            raise ModelError(f"the gradient of {name} is not finite, so its rows cannot be ranked. Use model.dtype=float32.")
        found[name] = (tuple(gradient.shape), norms.cpu().numpy())
    names = sorted(found)
    if scope == "tensor":
        chosen = {name: top_rows(found[name][1], percentile) for name in names}
    else:
        everything = top_rows(np.concatenate([found[name][1] for name in names] or [np.zeros(0, np.float32)]), percentile)
        ends = np.cumsum([len(found[name][1]) for name in names])
        chosen = dict(zip(names, np.split(everything, ends[:-1]), strict=True)) if names else {}
    masks: dict[str, Tensor] = {}
    for name, (shape, _) in found.items():
        lines = torch.from_numpy(chosen[name].copy())
        masks[name] = (lines[None, :] if name in transposed else lines[:, None]).expand(shape)
    return masks
