"""Safetensors files larger than memory: written piece by piece, read through a memory map.

The format is a header (8 bytes with its length, then JSON: name, dtype, shape and place of each tensor) and the bytes of the
tensors one after another. The header is complete before any data is, so a writer that knows every shape can stream.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
import sys
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch

from temper.errors import DataError

__all__ = ["Place", "TensorReader", "TensorWriter", "bytes_of", "mapped", "read_header"]

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LARGEST_HEADER = 100_000_000  # what the safetensors library accepts
_ALIGNMENT = 8
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0  # mmap.MAP_NORESERVE, which Python names from 3.13 on


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a file.

    Attributes:
        dtype: Its type.
        shape: Its shape.
        start: First byte, counted from the start of the file.
        length: How many bytes.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    length: int


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a tensor in row order, without a copy where it lies contiguous in main memory."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def read_header(path: Path) -> tuple[dict[str, Place], dict[str, str]]:
    """Return the place of every tensor of a safetensors file, and its metadata. Reads no data.

    Raises:
        DataError: The file is missing, is cut short or is no safetensors file.
    """
    try:
        with path.open("rb") as handle:
            size = path.stat().st_size
            prefix = handle.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
            if not 2 <= length <= min(size - 8, _LARGEST_HEADER):
                raise DataError(f"{path}: is no safetensors file, or is cut short ({size} bytes)")
            header: dict[str, Any] = json.loads(handle.read(length))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is no safetensors file ({error})") from error
    metadata = header.pop("__metadata__", {})
    return {name: _place(path, name, entry, 8 + length, size) for name, entry in header.items()}, metadata


def _place(path: Path, name: str, entry: dict[str, Any], data: int, size: int) -> Place:
    try:
        dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: the entry of {name!r} is not understood: {entry}") from error
    if not 0 <= begin <= end <= size - data or end - begin != math.prod(shape) * dtype.itemsize:
        raise DataError(
            f"{path}: {name!r} should be {dtype} {list(shape)}, but the file has {size - data} bytes of data for {entry}"
        )
    return Place(dtype, shape, data + begin, end - begin)


def mapped(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, backed by a memory map: pages are read when they are touched.

    Writing into such a tensor changes this process's copy of the page, never the file.

    Raises:
        DataError: The file is missing, is cut short or is no safetensors file.
    """
    places, _ = read_header(path)
    if not any(place.length for place in places.values()):
        return {name: torch.empty(place.shape, dtype=place.dtype) for name, place in places.items()}
    with path.open("rb") as handle:
        # a private writable map larger than memory is refused unless no room is set aside for pages that are never written
        view = mmap.mmap(handle.fileno(), 0, flags=mmap.MAP_PRIVATE | _NO_RESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return {name: _view(view, place) for name, place in places.items()}


def _view(view: mmap.mmap, place: Place) -> torch.Tensor:
    if not place.length:
        return torch.empty(place.shape, dtype=place.dtype)
    raw = torch.frombuffer(view, dtype=torch.uint8, offset=place.start, count=place.length)
    if place.start % place.dtype.itemsize:  # some writers do not align; kernels expect it
        raw = raw.clone()
    return raw.view(place.dtype).reshape(place.shape)


class TensorReader(Mapping[str, torch.Tensor]):
    """The tensors of a safetensors file, each read into memory of its own when it is asked for.

    The file is held open, so it can be read to the end though it is removed meanwhile. Unlike a memory map, nothing of it stays in
    memory but what somebody holds.

    Args:
        path: The file.

    Raises:
        DataError: It is missing, is cut short or is no safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places, _ = read_header(path)
        try:
            self._file = os.open(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file") from error
        weakref.finalize(self, os.close, self._file)

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return a tensor."""
        place = self._places[name]
        if not place.length:
            return torch.empty(place.shape, dtype=place.dtype)
        raw, done = bytearray(place.length), 0
        while done < place.length:  # a system call gives at most 2 GiB
            read = os.preadv(self._file, [memoryview(raw)[done:]], place.start + done)
            if not read:
                raise DataError(f"{self._path}: ended in the middle of {name!r}")
            done += read
        return torch.frombuffer(raw, dtype=place.dtype).reshape(place.shape)

    def __contains__(self, name: object) -> bool:
        """Return whether the file has a tensor of this name; reads nothing."""
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class TensorWriter:
    """Writes a safetensors file tensor by tensor, or a tensor in blocks of rows, in any order of tensors.

    A context manager; leaving it checks that every tensor is complete. Write into a folder that is held aside until all is
    well (`temper.files.folder_aside`).

    Args:
        path: The file, which must not exist.
        tensors: Dtype and shape of every tensor that will be written.
        metadata: Free text in the header.

    Raises:
        DataError: A dtype that the format does not have, or, on leaving, a tensor that is not complete.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with TensorWriter(folder / "a.safetensors", {"hidden": (torch.bfloat16, (3, 2))}) as writer:
        ...     writer.write_rows("hidden", torch.ones(2, 2, dtype=torch.bfloat16))
        ...     writer.write_rows("hidden", torch.zeros(1, 2, dtype=torch.bfloat16))
        >>> mapped(folder / "a.safetensors")["hidden"].sum().item()
        4.0
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._path = path
        self._places: dict[str, Place] = {}
        self._written = dict.fromkeys(tensors, 0)
        self._handle: BinaryIO | None = None
        for name, (dtype, _) in tensors.items():
            if dtype not in _NAMES:
                raise DataError(f"{path}: {name!r} is {dtype}, which a safetensors file cannot hold ({', '.join(_DTYPES)})")
        header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        end = 0
        # widest type first, so that every tensor starts at a multiple of its own width
        for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: -item[1][0].itemsize):
            length = math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [end, end + length]}
            self._places[name] = Place(dtype, tuple(shape), end, length)
            end += length
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        self._header = text + b" " * (-len(text) % _ALIGNMENT)

    def __enter__(self) -> TensorWriter:
        """Create the file and write its header."""
        self._handle = self._path.open("xb")
        self._handle.write(struct.pack("<Q", len(self._header)) + self._header)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the file; without an error on the way, check that nothing is missing."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None
        short = [name for name, place in self._places.items() if self._written[name] != place.length]
        if kind is None and short:
            name = short[0]
            raise DataError(
                f"{self._path}: {len(short)} of {len(self._places)} tensors are not complete; {name!r} has {self._written[name]} of "
                f"{self._places[name].length} bytes"
            )

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Write a whole tensor.

        Raises:
            DataError: Not one of the tensors announced, another dtype or shape, or written before.
        """
        place = self._place(name, tensor)
        if tuple(tensor.shape) != place.shape:
            raise DataError(f"{self._path}: {name!r} has shape {list(tensor.shape)}, announced was {list(place.shape)}")
        if self._written[name]:
            raise DataError(f"{self._path}: {name!r} is written twice")
        self._append(name, place, tensor)

    def write_rows(self, name: str, rows: torch.Tensor) -> None:
        """Write the next rows of a tensor: shape (n, ...) of a tensor of shape (N, ...).

        Raises:
            DataError: Not one of the tensors announced, another dtype or row shape, or more rows than announced.
        """
        place = self._place(name, rows)
        if not place.shape or tuple(rows.shape[1:]) != place.shape[1:] or rows.dim() != len(place.shape):
            raise DataError(f"{self._path}: rows of shape {list(rows.shape)} do not fit {name!r} of shape {list(place.shape)}")
        if self._written[name] + rows.numel() * rows.element_size() > place.length:
            raise DataError(f"{self._path}: {name!r} gets more than the {place.shape[0]} rows announced")
        self._append(name, place, rows)

    def _place(self, name: str, tensor: torch.Tensor) -> Place:
        if name not in self._places:
            raise DataError(f"{self._path}: {name!r} was not announced. Announced are: {', '.join(list(self._places)[:5])}")
        if tensor.dtype != self._places[name].dtype:
            raise DataError(f"{self._path}: {name!r} is {tensor.dtype}, announced was {self._places[name].dtype}")
        return self._places[name]

    def _append(self, name: str, place: Place, tensor: torch.Tensor) -> None:
        if self._handle is None:
            raise DataError(f"{self._path}: is not open. Write inside `with TensorWriter(...) as writer:`")
        self._handle.seek(8 + len(self._header) + place.start + self._written[name])
        data = bytes_of(tensor)
        self._handle.write(data)
        self._written[name] += data.nbytes
