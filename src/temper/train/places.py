"""Where the selected entries of a tensor lie, in the smallest form that fits: all of it, whole lines, or single entries.

`gather` and `scatter` keep the bits of every entry; what is not selected is read and written by neither.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

__all__ = ["Place", "place_of"]


class Place(ABC):
    """Where the selected entries of a tensor lie.

    Attributes:
        shape: Of the tensor.
        count: How many entries are selected.
        is_everything: Whether `gather` returns the tensor itself.
    """

    shape: tuple[int, ...]
    count: int
    is_everything: ClassVar[bool] = False

    @property
    @abstractmethod
    def gathered(self) -> tuple[int, ...]:
        """The shape that `gather` returns; read row by row, its entries are in the order of the tensor's."""

    @abstractmethod
    def gather(self, tensor: Tensor) -> Tensor:
        """Return the selected entries; a view where everything is selected."""

    @abstractmethod
    def scatter(self, tensor: Tensor, values: Tensor) -> None:
        """Write the selected entries, rounded to the tensor's precision."""

    @abstractmethod
    def clear_outside(self, tensor: Tensor) -> None:
        """Zero what is not selected."""


@dataclass(frozen=True)
class _Everything(Place):
    shape: tuple[int, ...]
    count: int
    is_everything: ClassVar[bool] = True

    @property
    def gathered(self) -> tuple[int, ...]:
        return self.shape

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor

    def scatter(self, tensor: Tensor, values: Tensor) -> None:
        tensor.copy_(values)

    def clear_outside(self, tensor: Tensor) -> None:
        pass


@dataclass(frozen=True)
class _Lines(Place):
    """Whole rows (dim 0) or columns (dim 1) of a matrix: eight bytes a line instead of one an entry."""

    shape: tuple[int, ...]
    count: int
    dim: int
    index: Tensor

    @property
    def gathered(self) -> tuple[int, ...]:
        return (len(self.index), self.shape[1]) if self.dim == 0 else (self.shape[0], len(self.index))

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor.index_select(self.dim, self.index)

    def scatter(self, tensor: Tensor, values: Tensor) -> None:
        tensor.index_copy_(self.dim, self.index, values.to(tensor.dtype))

    def clear_outside(self, tensor: Tensor) -> None:
        kept = self.gather(tensor)
        tensor.zero_().index_copy_(self.dim, self.index, kept)


@dataclass(frozen=True)
class _Entries(Place):
    shape: tuple[int, ...]
    count: int
    mask: Tensor

    @property
    def gathered(self) -> tuple[int, ...]:
        return (self.count,)

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor.masked_select(self.mask)

    def scatter(self, tensor: Tensor, values: Tensor) -> None:
        tensor.masked_scatter_(self.mask, values.to(tensor.dtype))

    def clear_outside(self, tensor: Tensor) -> None:
        tensor.masked_fill_(~self.mask, 0)


def place_of(mask: Tensor | None, tensor: Tensor) -> Place:
    """Return the place of the selected entries in the smallest form that fits.

    Args:
        mask: A boolean tensor of the tensor's shape, True where an entry is selected; all of them when None.
        tensor: On whose device the place is used.
    """
    shape = tuple(tensor.shape)
    if mask is None or bool(mask.all()):
        return _Everything(shape, tensor.numel())
    if mask.dim() == 2 and mask.numel() > 0:
        for dim, line in ((0, mask[:, :1]), (1, mask[:1, :])):
            if torch.equal(mask, line.expand_as(mask)):
                index = line.flatten().nonzero().flatten().to(tensor.device)
                return _Lines(shape, len(index) * shape[1 - dim], dim, index)
    return _Entries(shape, int(mask.sum()), mask.to(tensor.device))
