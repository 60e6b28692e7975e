"""The weights from before training, without a second model: copies of what trains, swapped in for a moment.

With an adapter nothing is copied, since switching the adapter off gives the model from before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from temper.models.selection import decoder_layers

__all__ = ["OriginalWeights", "without_adapter"]


@contextlib.contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Switch an adapter off while the block lasts; what was frozen stays frozen, which peft's own switch forgets."""
    trains = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter, wanted in trains:
            parameter.requires_grad_(wanted)


class OriginalWeights:
    """Keeps the original values of the parameters that train.

    Args:
        model: The model, its selection applied and not yet trained.
        up_to_layer: Keep only what the output of this block can depend on.
    """

    def __init__(self, model: Any, up_to_layer: int | None = None) -> None:
        self._model = model
        self._is_adapter = hasattr(model, "disable_adapter")
        above: set[int] = set()
        if up_to_layer is not None:
            above = {id(p) for block in list(decoder_layers(model))[up_to_layer + 1 :] for p in block.parameters()}
        self._kept: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
        if not self._is_adapter:
            self._kept = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad and id(p) not in above]

    @property
    def stored_bytes(self) -> int:
        """Return the memory the copies take."""
        return sum(value.numel() * value.element_size() for _, value in self._kept)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Give the model its original weights while the block lasts; gradients are off."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if self._is_adapter:
                stack.enter_context(without_adapter(self._model))
            current = [parameter.data for parameter, _ in self._kept]
            try:
                for parameter, value in self._kept:
                    parameter.data = value
                yield
            finally:
                for (parameter, _), value in zip(self._kept, current, strict=True):
                    parameter.data = value
