"""What waits on disk while gradients are taken: their sums, and activations whose turn has not come."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np
import torch
from torch import nn

from temper.errors import RunError
from temper.models.tensorfile import bytes_of

__all__ = ["Spill", "Sums"]

KEPT: Final = 2**14
"""Bytes up to which a tensor waits in memory: the file would not pay."""


class Sums:
    """Float32 sums of named tensors in a file that leaves nothing behind; read and written without a memory map.

    Args:
        folder: Where the file lies while it is open.
        shapes: Name to shape.
    """

    def __init__(self, folder: Path, shapes: Mapping[str, torch.Size]) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()
        self._shapes = dict(shapes)
        self._start: dict[str, int] = {}
        self._touched: set[str] = set()
        end = 0
        for name, shape in shapes.items():
            self._start[name] = end
            end += 4 * math.prod(shape)

    def add(self, name: str, part: torch.Tensor) -> None:
        """Add a tensor to a sum.

        Raises:
            RunError: It is not finite.
        """
        total = self.with_rest(name, part)
        self._touched.add(name)
        self._file.seek(self._start[name])
        self._file.write(bytes_of(total))

    def with_rest(self, name: str, part: torch.Tensor | None) -> torch.Tensor:
        """Return a sum with its last part, which is not put into the file.

        Raises:
            RunError: The part is not finite.
        """
        if part is None:
            return self.read(name)
        part = part.detach().to("cpu", torch.float32)
        if not bool(torch.isfinite(part).all()):
            raise RunError(
                f"the gradient of {name} is infinite or NaN, so its weights cannot be scored. Use model.dtype=float32, or look for rows the model "
                "gives no probability to."
            )
        return part + self.read(name) if name in self._touched else part

    def read(self, name: str) -> torch.Tensor:
        """Return a sum, zeros where nothing was added."""
        shape = self._shapes[name]
        if name not in self._touched:
            return torch.zeros(shape)
        self._file.seek(self._start[name])
        self._file.flush()
        flat = np.frombuffer(bytearray(self._file.read(4 * math.prod(shape))), dtype=np.float32)
        return torch.from_numpy(flat).reshape(shape)

    def close(self) -> None:
        """Drop the file."""
        self._file.close()


class Spill:
    """Activations that wait in a file for their block's turn.

    Used as the hooks of saved tensors: what the graph keeps is a place in the file. A tensor that several operations of a block keep is
    written once.

    Args:
        folder: Where the file lies while it is open.
        model: Its weights are not written.
    """

    def __init__(self, folder: Path, model: nn.Module) -> None:
        self._file = cast(BinaryIO, tempfile.TemporaryFile(dir=folder))  # noqa: SIM115 - closed by close()
        self._resident = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
        # tensors are held while their places are known by address: freed memory could come back as another tensor
        self._known: dict[tuple[Any, ...], tuple[int, torch.Tensor]] = {}
        self.size = 0

    def pack(self, tensor: torch.Tensor) -> Any:
        """Return what the graph keeps instead of a tensor."""
        if tensor.untyped_storage().data_ptr() in self._resident or tensor.numel() * tensor.element_size() <= KEPT:
            return tensor.detach()
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor._version)
        if key not in self._known:
            self._known[key] = (self._write(tensor), tensor.detach())
        return self._known[key][0], tensor.shape, tensor.dtype, tensor.device

    def _write(self, tensor: torch.Tensor) -> int:
        start, data, done = self.size, bytes_of(tensor), 0
        while done < data.nbytes:  # a system call takes at most 2 GiB
            done += os.pwrite(self._file.fileno(), data[done:], start + done)
        self.size += done
        return start

    def unpack(self, kept: Any) -> torch.Tensor:
        """Return the tensor."""
        if isinstance(kept, torch.Tensor):
            return kept
        start, shape, dtype, device = kept
        tensor = torch.empty(shape, dtype=dtype)
        data, done = tensor.view(-1).view(torch.uint8).numpy().data, 0
        while done < data.nbytes:
            done += os.preadv(self._file.fileno(), [data[done:]], start + done)
        return tensor.to(device)

    def forget_addresses(self) -> None:
        """Let go of the tensors of a block that has run."""
        self._known.clear()

    def empty(self) -> None:
        """Begin again: all that waited has had its turn. The file keeps its length, since writing over pages is cheaper than getting new ones."""
        self._known.clear()
        self.size = 0

    def close(self) -> None:
        """Drop the file."""
        self._file.close()

    def __enter__(self) -> Spill:
        """Return this."""
        return self

    def __exit__(self, *_: object) -> None:
        """Drop the file."""
        self.close()
