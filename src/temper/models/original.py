"""The weights from before training, without a second model: copies of what trains, swapped in for a moment.

With an adapter nothing is copied, since switching the adapter off gives the model from before. Where single weights are
selected only those are copied, and nothing is where the optimiser keeps them anyway (`keep_nothing`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

from temper.models.places import Place
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
    """Keeps the original values of what trains.

    Args:
        model: The model, its selection applied and not yet trained.
        up_to_layer: Keep only what the output of this block can depend on.
        places: Parameter name to where its selected entries lie; a parameter without one is kept whole.
    """

    def __init__(self, model: Any, up_to_layer: int | None = None, places: Mapping[str, Place] | None = None) -> None:
        self._model = model
        self._is_adapter = hasattr(model, "disable_adapter")
        self._elsewhere: Callable[[], AbstractContextManager[None]] | None = None
        above: set[int] = set()
        if up_to_layer is not None:
            above = {id(p) for block in list(decoder_layers(model))[up_to_layer + 1 :] for p in block.parameters()}
        self._whole: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
        self._entries: list[tuple[torch.nn.Parameter, Place, torch.Tensor]] = []
        for name, parameter in () if self._is_adapter else model.named_parameters():
            if not parameter.requires_grad or id(parameter) in above:
                continue
            place = (places or {}).get(name)
            if place is None or place.is_everything:
                self._whole.append((parameter, parameter.detach().clone()))
            elif place.count:
                self._entries.append((parameter, place, place.gather(parameter.detach())))

    @property
    def stored_bytes(self) -> int:
        """Return the memory the copies take."""
        return sum(value.nbytes for _, value in self._whole) + sum(value.nbytes for _, _, value in self._entries)

    def keep_nothing(self, elsewhere: Callable[[], AbstractContextManager[None]]) -> None:
        """Drop the copies; from now on something else puts the original values in place while its block lasts."""
        if not self._is_adapter:
            self._whole, self._entries, self._elsewhere = [], [], elsewhere

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Give the model its original weights while the block lasts; gradients are off."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if self._is_adapter:
                stack.enter_context(without_adapter(self._model))
            if self._elsewhere is not None:
                stack.enter_context(self._elsewhere())
            stack.enter_context(self._swapped())
            yield

    @contextlib.contextmanager
    def _swapped(self) -> Iterator[None]:
        whole = [parameter.data for parameter, _ in self._whole]
        entries: list[torch.Tensor] = []
        try:
            for parameter, value in self._whole:
                parameter.data = value
            for parameter, place, value in self._entries:
                entries.append(place.gather(parameter.data))
                # through .data: a pass that waits for its backward reads these weights again only when they are back, bit for bit
                place.scatter(parameter.data, value)
            yield
        finally:
            for (parameter, _), value in zip(self._whole, whole, strict=True):
                parameter.data = value
            for (parameter, place, _), value in zip(self._entries, entries, strict=False):
                place.scatter(parameter.data, value)
