"""Tensors by name, read piece by piece: from the files of a checkpoint, or from memory. A merge needs no more of base and models.

Pieces of files are read, not mapped: pages of a map count as memory of the process until the map goes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from temper.errors import ModelError
from temper.merge.method import pieces
from temper.models.checkpoint import Checkpoint
from temper.models.tensorfile import bytes_of

__all__ = ["FileTensors", "HeldTensors", "Shape", "TensorStore", "content_hash", "whole"]


@dataclass(frozen=True)
class Shape:
    """Dtype and shape of a tensor."""

    dtype: torch.dtype
    sizes: tuple[int, ...]

    @property
    def entries(self) -> int:
        """Return how many entries it has."""
        return torch.Size(self.sizes).numel()

    @property
    def wide(self) -> torch.dtype:
        """Return the dtype that changes of it are computed in."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {list(self.sizes)}"


class TensorStore(Protocol):
    """Tensors by name."""

    @property
    def label(self) -> str:
        """What it is called in messages."""
        ...

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Dtype and shape of every tensor."""
        ...

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Return some entries of a tensor in row order, flat, in the dtype it has."""
        ...


class HeldTensors:
    """Tensors in memory.

    Args:
        tensors: By name.
        label: What they are called in messages.
    """

    def __init__(self, tensors: Mapping[str, Tensor], label: str) -> None:
        self._label = label
        self.tensors = {name: tensor.detach() for name, tensor in tensors.items()}
        self._shapes = {name: Shape(tensor.dtype, tuple(tensor.shape)) for name, tensor in self.tensors.items()}

    @property
    def label(self) -> str:
        """Return what it is called in messages."""
        return self._label

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Return dtype and shape of every tensor."""
        return self._shapes

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Return some entries of a tensor."""
        return self.tensors[name].cpu().reshape(-1)[start:stop]


class FileTensors:
    """Tensors in the files of a checkpoint.

    Args:
        checkpoint: Where they lie.
        label: What it is called in messages.

    Raises:
        ModelError: A file is missing, damaged or lacks a tensor.
    """

    def __init__(self, checkpoint: Checkpoint, label: str) -> None:
        self._label = label
        self.checkpoint = checkpoint
        self._files: dict[str, Path] = {}
        self._places = {name: checkpoint.place_of(name) for name in checkpoint.file_of}
        self._shapes = {name: Shape(place.dtype, place.shape) for name, place in self._places.items()}

    @property
    def label(self) -> str:
        """Return what it is called in messages."""
        return self._label

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Return dtype and shape of every tensor."""
        return self._shapes

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Return some entries of a tensor.

        Raises:
            ModelError: The file became shorter.
        """
        place, file = self._places[name], self.checkpoint.file_of[name]
        if file not in self._files:
            self._files[file] = self.checkpoint.path_of(file)
        width = place.dtype.itemsize
        found = np.fromfile(self._files[file], np.uint8, (stop - start) * width, offset=place.start + start * width)
        if len(found) != (stop - start) * width:
            raise ModelError(f"{self._files[file]}: is cut short in {name}. Copy the file again.")
        return torch.from_numpy(found).view(place.dtype)


def whole(store: TensorStore, name: str) -> Tensor:
    """Return a whole tensor."""
    shape = store.shapes[name]
    return store.read(name, 0, shape.entries).reshape(shape.sizes)


def content_hash(store: TensorStore, names: Iterable[str]) -> str:
    """Return a SHA-256 over some tensors: names, dtypes, shapes and values, however they are laid out in files."""
    digest = hashlib.sha256()
    for name in sorted(names):
        shape = store.shapes[name]
        digest.update(f"{name} {shape}\n".encode())
        for start, stop in pieces(shape.entries):
            digest.update(bytes_of(store.read(name, start, stop)))
    return digest.hexdigest()
