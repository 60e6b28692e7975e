"""The two products that training a small model spends its time on: a linear map, and the loss over the vocabulary.

torch sends single-precision products to MKL, which on AMD processors does not use their 512-bit registers; oneDNN, which
is in the same torch, does. Measured on an AMD EPYC: 108 against 235 GFLOP/s for the shapes met here. The operator is
internal to torch (seen in 2.13); where it is missing the ordinary product is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

__all__ = ["linear", "tied_cross_entropy"]


def _product(a_NK: torch.Tensor, b_MK: torch.Tensor) -> torch.Tensor:
    """Return ``a @ b.T``, shape (N, M)."""
    if _ONEDNN:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(a_NK, b_MK, None, "none", [], "")
        return product
    return functional.linear(a_NK, b_MK)


def _outer(a_NM: torch.Tensor, b_NK: torch.Tensor) -> torch.Tensor:
    """Return ``a.T @ b``, shape (M, K). oneDNN copies a transposed first operand, so that is the smaller of the two."""
    if a_NM.shape[1] > b_NK.shape[1]:
        return _product(b_NK.t(), a_NM.t()).t()
    return _product(a_NM.t(), b_NK.t())


def _has_onednn() -> bool:
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and hasattr(torch.ops.mkldnn, "_linear_pointwise")


_ONEDNN = _has_onednn()
_SCORED_MULTIPLE = 64  # oneDNN compiles a kernel for every new shape: few shapes, few compilations


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NK: torch.Tensor, weight_MK: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x_NK, weight_MK)
        return _product(x_NK, weight_MK)

    @staticmethod
    def backward(ctx: Any, grad_NM: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x_NK, weight_MK = ctx.saved_tensors
        return _product(grad_NM, weight_MK.t()), _outer(grad_NM, x_NK)


def linear(x: torch.Tensor, weight_MK: torch.Tensor) -> torch.Tensor:
    """Return ``x @ weight.T`` for ``x`` of shape (..., K), differentiable in both."""
    y: torch.Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight_MK)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], weight_MK.shape[0])


class _TiedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: torch.Tensor, embed_VD: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
        n = len(labels_N)
        padded = -n % _SCORED_MULTIPLE
        hidden_ND, labels_N = functional.pad(hidden_ND, (0, 0, 0, padded)), functional.pad(labels_N, (0, padded))
        logits_NV = _product(hidden_ND, embed_VD)
        logits_NV -= logits_NV.amax(dim=1, keepdim=True)
        chosen_N = logits_NV.gather(1, labels_N[:, None]).squeeze(1)
        sums_N = logits_NV.exp_().sum(dim=1)
        # the gradient of the mean is (softmax - one hot) / n; made here, in place, since every forward is followed by a backward
        logits_NV *= (1.0 / (sums_N * n))[:, None]
        logits_NV[torch.arange(len(labels_N)), labels_N] -= 1.0 / n
        logits_NV[n:] = 0.0
        ctx.save_for_backward(_product(logits_NV, embed_VD.t())[:n], _outer(logits_NV, hidden_ND))
        return (sums_N.log() - chosen_N)[:n].mean()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        grad_hidden_ND, grad_embed_VD = ctx.saved_tensors
        return grad_hidden_ND * grad, grad_embed_VD * grad, None


def tied_cross_entropy(hidden_ND: torch.Tensor, embed_VD: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of ``hidden @ embed.T``, a scalar, differentiable in both.

    Args:
        hidden_ND: Hidden states at the scored positions.
        embed_VD: Vocabulary matrix.
        labels_N: Token ids, each at least 0.
    """
    loss: torch.Tensor = _TiedCrossEntropy.apply(hidden_ND, embed_VD, labels_N)  # type: ignore[no-untyped-call]
    return loss
