"""Where the selected entries of a tensor lie, in a small form: all of it, whole lines, or single entries.

`gather` and `scatter` keep the bits of every entry; what is not selected is read and written by neither.

On a CPU single entries are read by number: selecting through a mask (`masked_select`) takes twenty times as long there. Up to a
quarter of a tensor keeps four bytes each; more than that two bytes, their offsets inside blocks of 65,536, which takes three
times as long to read. Other devices are thought to select through a mask well (not measured): there one bit for every entry of the
tensor is kept where that is less.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

__all__ = ["Place", "place_of"]

_FEW: Final = 0.25
"""Share of entries up to which a CPU keeps their numbers."""

_BLOCK: Final = 2**16
_MIDDLE: Final = 2**15
"""Offsets are kept as signed 16 bit integers, less this."""


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

    @property
    @abstractmethod
    def stored_bytes(self) -> int:
        """The memory that the place itself takes."""

    @abstractmethod
    def gather(self, tensor: Tensor) -> Tensor:
        """Return the selected entries; a view where everything is selected."""

    @abstractmethod
    def scatter(self, tensor: Tensor, values: Tensor) -> None:
        """Write the selected entries, rounded to the tensor's precision."""

    @property
    def lines(self) -> tuple[int, Tensor] | None:
        """Dimension and ascending numbers, int64, of the lines that are selected whole; None where that is not the form."""
        return None

    def clear_outside(self, tensor: Tensor) -> None:
        """Zero what is not selected."""
        kept = self.gather(tensor)
        tensor.zero_()
        self.scatter(tensor, kept)


@dataclass(frozen=True)
class _Everything(Place):
    shape: tuple[int, ...]
    count: int
    is_everything: ClassVar[bool] = True

    @property
    def gathered(self) -> tuple[int, ...]:
        return self.shape

    @property
    def stored_bytes(self) -> int:
        return 0

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor

    def scatter(self, tensor: Tensor, values: Tensor) -> None:
        tensor.copy_(values)

    def clear_outside(self, tensor: Tensor) -> None:
        pass


@dataclass(frozen=True)
class _Lines(Place):
    """Whole rows (dim 0) or columns (dim 1) of a matrix: eight bytes a line."""

    shape: tuple[int, ...]
    count: int
    dim: int
    index: Tensor

    @property
    def gathered(self) -> tuple[int, ...]:
        return (len(self.index), self.shape[1]) if self.dim == 0 else (self.shape[0], len(self.index))

    @property
    def stored_bytes(self) -> int:
        return self.index.nbytes

    @property
    def lines(self) -> tuple[int, Tensor] | None:
        return self.dim, self.index

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor.index_select(self.dim, self.index)

    def scatter(self, tensor: Tensor, values: Tensor) -> None:
        tensor.index_copy_(self.dim, self.index, values.to(tensor.dtype))


@dataclass(frozen=True)
class _Few(Place):
    """Single entries by their numbers, int32."""

    shape: tuple[int, ...]
    count: int
    index: Tensor

    @property
    def gathered(self) -> tuple[int, ...]:
        return (self.count,)

    @property
    def stored_bytes(self) -> int:
        return self.index.nbytes

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(-1).index_select(0, self.index)

    def scatter(self, tensor: Tensor, values: Tensor) -> None:
        _write(tensor, self.index.long(), values)


@dataclass(frozen=True)
class _Blocks(Place):
    """Single entries by their offsets inside blocks.

    Attributes:
        offset: Entry modulo 65,536, less 32,768, int16, one a selected entry.
        start: Of each block that has any, its first entry plus 32,768, int64.
        length: Of each such block, how many of its entries are selected, int64.
    """

    shape: tuple[int, ...]
    count: int
    offset: Tensor
    start: Tensor
    length: Tensor

    @property
    def gathered(self) -> tuple[int, ...]:
        return (self.count,)

    @property
    def stored_bytes(self) -> int:
        return self.offset.nbytes + self.start.nbytes + self.length.nbytes

    def _index(self) -> Tensor:
        """Return the numbers of the entries, int64: for a moment they take four times what is kept of them."""
        return torch.repeat_interleave(self.start, self.length, output_size=self.count).add_(self.offset)

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(-1).index_select(0, self._index())

    def scatter(self, tensor: Tensor, values: Tensor) -> None:
        _write(tensor, self._index(), values)


@dataclass(frozen=True)
class _Bits(Place):
    """Single entries by one bit for every entry of the tensor, eight a byte, the first in the highest bit."""

    shape: tuple[int, ...]
    count: int
    bits: Tensor
    weights: Tensor

    @property
    def gathered(self) -> tuple[int, ...]:
        return (self.count,)

    @property
    def stored_bytes(self) -> int:
        return self.bits.nbytes

    def _mask(self) -> Tensor:
        each = (self.bits[:, None] & self.weights) != 0
        return each.view(-1)[: torch.Size(self.shape).numel()]

    # flat: what lies where is then told by one number an entry instead of one a dimension
    def gather(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(-1).masked_select(self._mask())

    def scatter(self, tensor: Tensor, values: Tensor) -> None:
        tensor.masked_scatter_(self._mask().view(self.shape), values.to(tensor.dtype))


def _write(tensor: Tensor, index: Tensor, values: Tensor) -> None:
    # a copy is made, and written back, only where the tensor does not lie in one piece
    flat = tensor.reshape(-1).scatter_(0, index, values.to(tensor.dtype))
    if flat.data_ptr() != tensor.data_ptr():
        tensor.copy_(flat.view(tensor.shape))


_WEIGHTS: Final = (128, 64, 32, 16, 8, 4, 2, 1)


def place_of(mask: Tensor | None, tensor: Tensor) -> Place:
    """Return the place of the selected entries.

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
    if tensor.device.type != "cpu" and 32 * count > mask.numel():
        return _bits_of(mask, count, tensor.device)
    if count <= _FEW * mask.numel() and mask.numel() < 2**31:
        return _Few(shape, count, mask.flatten().nonzero().flatten().int().to(tensor.device))
    return _blocks_of(mask, count, tensor.device)


def _blocks_of(mask: Tensor, count: int, device: torch.device) -> Place:
    flat = mask.flatten()
    offsets, starts, lengths = [], [], []
    # block by block: the int64 numbers of all entries of a large tensor would take eight times the mask
    for first in range(0, flat.numel(), _BLOCK):
        found = flat[first : first + _BLOCK].nonzero().flatten()
        if len(found):
            offsets.append((found - _MIDDLE).short())
            starts.append(first + _MIDDLE)
            lengths.append(len(found))
    offset = torch.cat(offsets) if offsets else torch.empty(0, dtype=torch.int16)
    start, length = torch.tensor(starts, dtype=torch.int64), torch.tensor(lengths, dtype=torch.int64)
    return _Blocks(tuple(mask.shape), count, offset.to(device), start.to(device), length.to(device))


def _bits_of(mask: Tensor, count: int, device: torch.device) -> Place:
    """Return the place of single entries as bits."""
    flat = torch.nn.functional.pad(mask.flatten().to(device, torch.uint8), (0, -mask.numel() % 8))
    weights = torch.tensor(_WEIGHTS, dtype=torch.uint8, device=device)
    return _Bits(tuple(mask.shape), count, (flat.view(-1, 8) * weights).sum(1, dtype=torch.uint8), weights)
