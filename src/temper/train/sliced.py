"""Linear layers that compute the weight gradient of their selected rows or columns alone.

    y = x Wᵀ + b        ∂W[rows] = ∂yᵀ[rows] x,        ∂W[:, columns] = ∂yᵀ x[:, columns]

A backward pass through a linear layer is two products of the size of the forward one, and this makes one of them as small as
the selection. The gradient goes straight into the packed gradients; `weight.grad` stays None. It is the same sum of the same
products as that of the whole gradient, up to the order of the sum, which a matrix product chooses by its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from temper.models.places import Place

__all__ = ["slice_linears"]

_THIN = 1 / 3
"""Up to this share of columns their inputs are kept for the backward pass instead of all inputs, which up to three layers share."""

Sink = Callable[[Tensor], None]


class _Sliced(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight: Tensor, bias: Tensor | None, lines: tuple[int, Tensor], sink: Sink, transposed: bool
    ) -> Tensor:
        dim, ctx.index = lines
        ctx.sink, ctx.transposed = sink, transposed
        # a Conv1D keeps its weight as (inputs, outputs), so that its rows are what a Linear calls columns
        ctx.inputs = (dim == 1) != transposed
        ctx.cut = ctx.inputs and len(ctx.index) <= _THIN * x_ND.shape[1]
        ctx.save_for_backward(x_ND.index_select(1, ctx.index) if ctx.cut else x_ND, weight)
        product = weight if transposed else weight.t()
        return torch.mm(x_ND, product) if bias is None else torch.addmm(bias, x_ND, product)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weight = ctx.saved_tensors
        if ctx.inputs:
            left, right = dy_NO, x_ND if ctx.cut else x_ND.index_select(1, ctx.index)
        else:
            left, right = dy_NO.index_select(1, ctx.index), x_ND
        ctx.sink(torch.mm(right.t(), left) if ctx.transposed else torch.mm(left.t(), right))
        dx_ND = None
        if ctx.needs_input_grad[0]:
            dx_ND = torch.mm(dy_NO, weight.t() if ctx.transposed else weight)
        db_O = dy_NO.sum(0) if ctx.needs_input_grad[2] else None
        return dx_ND, None, db_O, None, None, None


def _slice(module: Any, lines: tuple[int, Tensor], sink: Sink) -> Callable[[], None]:
    """Give a layer a forward pass whose backward is sliced; return what takes it away."""
    usual, transposed = module.forward, isinstance(module, Conv1D)

    def forward(x: Tensor) -> Tensor:
        weight = module.weight
        # where nothing is differentiated, or products run in another precision than the weights', the layer does what it always does
        plain = x.dtype == weight.dtype and not torch.is_autocast_enabled(x.device.type)
        if not (plain and torch.is_grad_enabled() and weight.requires_grad):
            return usual(x)  # type: ignore[no-any-return]
        y_NO = _Sliced.apply(x.reshape(-1, x.shape[-1]), weight, module.bias, lines, sink, transposed)  # type: ignore[no-untyped-call]
        return y_NO.view(*x.shape[:-1], y_NO.shape[-1])  # type: ignore[no-any-return]

    module.forward = forward

    def undo() -> None:
        if module.__dict__.get("forward") is forward:
            del module.forward

    return undo


def slice_linears(model: nn.Module, places: dict[int, tuple[Place, Sink]]) -> Iterator[Callable[[], None]]:
    """Slice the linear layers whose weights have whole rows or columns selected; yield what takes each of them back.

    Args:
        model: Its modules are looked through; a layer whose forward pass is not its class's own is left alone.
        places: Identity of a parameter to its place and to what takes the gradient of its selected entries.
    """
    for module in model.modules():
        if type(module) not in (nn.Linear, Conv1D) or "forward" in module.__dict__:
            continue
        place, sink = places.get(id(module.weight), (None, None))
        if place is not None and sink is not None and place.lines is not None and place.count:
            yield _slice(module, place.lines, sink)
