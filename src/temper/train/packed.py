"""Packed gradients: of every masked parameter the gradient of its selected entries, and the whole gradient never longer than it is needed.

A hook on each parameter runs as soon as the backward pass has its gradient, adds the selected entries to the packed gradient
and drops the rest, so that the largest tensor is the most that exists at a time. Micro-batches and backward passes add up.
Between processes the packed gradients are averaged, ρP numbers instead of P.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from temper.models.places import Place
from temper.train.sliced import slice_linears

__all__ = ["PackedGradients", "Source"]


@dataclass(frozen=True)
class Source:
    """A parameter whose gradient is packed.

    Attributes:
        parameter: The parameter.
        place: Where its selected entries lie.
        dtype: The precision in which its gradient adds up.
    """

    parameter: nn.Parameter
    place: Place
    dtype: torch.dtype


class PackedGradients:
    """Gradients of selected entries, by parameter name, each in the order and shape of `Place.gather`."""

    def __init__(self) -> None:
        self._sources: dict[str, Source] = {}
        self._values: dict[str, Tensor] = {}
        self._undo: list[Callable[[], None]] = []

    def attach(self, sources: Mapping[str, Source], model: nn.Module | None) -> None:
        """Pack the gradients of these parameters from now on; linear layers of the model compute what is selected alone."""
        self.detach()
        self._sources = dict(sources)
        for name, source in self._sources.items():
            handle = source.parameter.register_post_accumulate_grad_hook(self._hook(name, source))  # type: ignore[no-untyped-call]
            self._undo.append(handle.remove)
        if model is not None:
            sinks = {id(s.parameter): (s.place, self._sink(name)) for name, s in self._sources.items()}
            self._undo.extend(slice_linears(model, sinks))

    def detach(self) -> None:
        """Leave gradients alone from now on, and drop what was packed."""
        for undo in self._undo:
            undo()
        self._sources, self._values, self._undo = {}, {}, []

    def _hook(self, name: str, source: Source) -> Callable[[Tensor], None]:
        def collect(parameter: Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            if source.place.count and gradient is not None:
                self.add(name, source.place.gather(gradient))

        return collect

    def _sink(self, name: str) -> Callable[[Tensor], None]:
        return lambda values: self.add(name, values)

    def add(self, name: str, values: Tensor) -> None:
        """Add to the packed gradient of a parameter; the tensor may be kept."""
        dtype = self._sources[name].dtype
        if name in self._values:
            self._values[name] += values
        else:
            self._values[name] = values.to(dtype)

    def of(self, name: str) -> Tensor | None:
        """Return the packed gradient of a parameter, None where it has had none."""
        return self._values.get(name)

    def __contains__(self, name: str) -> bool:
        """Return whether the gradient of a parameter is packed."""
        return name in self._sources

    def of_or_zeros(self, name: str) -> Tensor:
        """Return the packed gradient of a parameter; where it has had none, zeros that are kept as its gradient."""
        if name not in self._values:
            source = self._sources[name]
            self._values[name] = torch.zeros(source.place.gathered, dtype=source.dtype, device=source.parameter.device)
        return self._values[name]

    def all(self) -> dict[str, Tensor]:
        """Return the packed gradients that are there now."""
        return dict(self._values)

    def clear(self) -> None:
        """Drop all packed gradients."""
        self._values = {}
