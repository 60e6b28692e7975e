"""How the entries of one parameter that train are kept between steps, and handed to the optimiser as a small tensor: its shell.

| form | kept beside the optimiser's state | between steps the parameter holds |
| --- | --- | --- |
| packed, float32 | nothing | the entries themselves |
| packed, half precision | float32 masters of the selected entries | their rounding |
| delta | the selected entries of before, W₀, and δ in float32 | the rounding of W₀ + δ |
| dense_compat | a float32 master of the whole tensor where it has half precision | as above; the optimiser's state is as large as the tensor |

`dense_compat` does what the published code does (a state for every weight of a tensor), then puts back what is not selected.
A float64 parameter is stepped in float64 wherever this says float32.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from temper.models.places import Place, place_of

__all__ = ["Member", "Precision", "Storage"]

Storage = Literal["packed", "delta", "dense_compat"]
Precision = Literal["master", "bf16_pure"]


class Member:
    """One parameter of a masked optimiser.

    Attributes:
        name: Its name.
        place: Where its selected entries lie, in this process's part of it.
        span: Where the entries lie that the optimiser keeps state for.
        is_masked: Whether a part of the whole parameter is selected; what one process holds may yet be all selected.
        is_ragged: Whether state is kept for that part, in the order of `Place.gather`, instead of in the shape of the parameter.
        shell: What the optimiser steps; empty between steps unless it is a master.
        parts: Names of what is kept between steps beside the state: `master`, or `base` and `delta`.
        kept: Those, from the first step on.
        dtype: The precision of the step.
    """

    def __init__(
        self, name: str, parameter: Tensor, place: Place, *, is_masked: bool, storage: Storage, precision: Precision
    ) -> None:
        self.name, self.place, self.is_masked = name, place, is_masked
        self.is_ragged = is_masked and storage != "dense_compat"
        self.span = place if storage != "dense_compat" or place.is_everything else place_of(None, parameter)
        self.dtype = parameter.dtype if precision == "bf16_pure" else torch.promote_types(parameter.dtype, torch.float32)
        self.parts: tuple[str, ...] = ()
        if storage == "delta":
            self.parts = ("base", "delta")
        elif self.dtype != parameter.dtype:
            self.parts = ("master",)
        self.kept: dict[str, Tensor] = {}
        self.shell = nn.Parameter(torch.empty(0, dtype=self.dtype, device=parameter.device), requires_grad=False)
        self._before: Tensor | None = None

    @property
    def steps_in_place(self) -> bool:
        """Whether the shell is the parameter itself."""
        # of dense_compat only what is selected whole: else a copy of what is put back is held until the step is over
        return self.span is self.place and self.span.is_everything and not self.parts

    def kept_bytes(self, parameter: Tensor) -> int:
        """Return the bytes of what is kept beside the state; known before the first step."""
        sizes = {"master": self.dtype.itemsize, "base": parameter.element_size(), "delta": self.dtype.itemsize}
        return self.span.count * sum(sizes[part] for part in self.parts)

    def begin(self, weight: Tensor, gradient: Tensor) -> None:
        """Fill the shell with the entries of `span` and their gradient.

        Args:
            weight: This process's part of the parameter.
            gradient: Of the entries of `span`.
        """
        values = self._values(weight)
        if self.span is not self.place:
            self._before = values.clone()
            alone = torch.zeros_like(gradient)
            self.place.scatter(alone, self.place.gather(gradient))
            gradient = alone
        self.shell.data = values
        self.shell.grad = gradient.to(self.dtype)

    def _values(self, weight: Tensor) -> Tensor:
        if not self.parts:
            return self.span.gather(weight)
        if not self.kept:
            values = self.span.gather(weight)
            if self.parts == ("master",):
                self.kept["master"] = values.to(self.dtype)
            else:
                self.kept = {"base": values.clone(), "delta": torch.zeros_like(values, dtype=self.dtype)}
        return self.kept["master"] if "master" in self.kept else self._moved()

    def _moved(self) -> Tensor:
        return self.kept["base"].to(self.dtype) + self.kept["delta"]

    def end(self, weight: Tensor) -> None:
        """Write what the optimiser made of the selected entries, and empty the shell."""
        values = self.shell.data
        if self._before is not None:
            new = self.place.gather(values)
            values.copy_(self._before)
            self.place.scatter(values, new)
            self._before = None
            if self.parts:
                self.place.scatter(weight, new)
        elif "delta" in self.kept:
            self.kept["delta"].copy_(values).sub_(self.kept["base"])
            self.place.scatter(weight, self._moved())
        elif not self.steps_in_place:
            self.place.scatter(weight, values)
        self.shell.grad = None
        self.shell.data = values.new_empty(0)

    def put_original(self, weight: Tensor) -> None:
        """Write the entries of before, which delta storage keeps; nothing before the first step."""
        if "base" in self.kept:
            self.place.scatter(weight, self.kept["base"])

    def put_moved(self, weight: Tensor) -> None:
        """Write the entries as the last step left them, bit for bit."""
        if "base" in self.kept:
            self.place.scatter(weight, self._moved())
