"""Where the selected entries of a tensor lie, in the smallest form that fits: all of it, whole lines, or single entries.

`gather` and `scatter` keep the bits of every entry; what is not selected is read and written by neither.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

__all__ = ["Place", "place_of"]


_FEW: Final = 0.25
"""Share of entries up to which their places take less room than a mask of the whole tensor."""


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


@dataclass(frozen=True)
class _Few(Place):
    """Single entries that are few: four bytes each instead of one for every entry of the tensor, and read without a scan."""

    shape: tuple[int, ...]
    count: int
    index: Tensor

    @property
    def gathered(self) -> tuple[int, ...]:
        return (self.count,)

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(-1).index_select(0, self.index)

    def scatter(self, tensor: Tensor, values: Tensor) -> None:
        # a copy is made, and written back, only where the tensor does not lie in one piece
        flat = tensor.reshape(-1).index_copy_(0, self.index.long(), values.to(tensor.dtype))
        if flat.data_ptr() != tensor.data_ptr():
            tensor.copy_(flat.view(self.shape))

    def clear_outside(self, tensor: Tensor) -> None:
        kept = self.gather(tensor)
        tensor.zero_()
        self.scatter(tensor, kept)


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
    count = int(mask.sum())
    if count <= _FEW * mask.numel() and mask.numel() < 2**31:
        return _Few(shape, count, mask.flatten().nonzero().flatten().int().to(tensor.device))
    return _Entries(shape, count, mask.to(tensor.device))
