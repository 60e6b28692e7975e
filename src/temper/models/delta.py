"""A delta: what changed in a checkpoint, and nothing else, for the exact weights it was made for.

    delta.json          schema, the base's name and hash, and for each changed tensor its form, dtype, shape and count
    delta.safetensors   schema 2, of a stored tensor NAME with entries that differ: `NAME` where it is kept whole, else
                        `values/NAME`, the new entries in the dtype that is stored, and `places/NAME` (`temper.models.sparse`)

Names, layouts and dtypes are those of the checkpoint's files, not those in memory, so applying it is writing bytes: base and
delta together are the checkpoint that was saved, bit for bit, however it is sharded, tied or fused on loading. A tensor none of whose
entries differ is not kept. Schema 1, which is read too, keeps whole parameters by their names in memory.

`load_delta` puts a delta onto the loaded base, and takes it off again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from temper.errors import DataError, ModelError
from temper.files import folder_aside, hash_file, read_json, write_json
from temper.models.checkpoint import open_checkpoint
from temper.models.load import resolve_path
from temper.models.sparse import FORMS, Form, differing, pack, positions_shape, smallest, unpack
from temper.models.tensorfile import TensorWriter, bytes_of, mapped
from temper.models.writeback import StoredModel, check_apart, files_hash, write_changed, write_stored
from temper.recipe import ModelSection, WorldSection

__all__ = ["DELTA_SCHEMA", "Delta", "Entry", "apply_delta", "read_delta", "write_delta"]

DELTA_SCHEMA = 2
_READ = (1, 2)
_RECORD, _TENSORS = "delta.json", "delta.safetensors"
_WANTED = {1: {"schema", "base", "base_weights", "names"}, 2: {"schema", "base", "base_weights", "delta_hash", "tensors"}}


@dataclass(frozen=True)
class Entry:
    """What is kept of one stored tensor.

    Attributes:
        form: How its places are kept.
        dtype: As the base stores it.
        shape: As the base stores it.
        changed: How many entries differ from the base's.
        before: SHA-256 of the bytes of the base's tensor.
    """

    form: Form
    dtype: torch.dtype
    shape: tuple[int, ...]
    changed: int
    before: str

    @property
    def entries(self) -> int:
        """Return how many entries the tensor has."""
        return torch.Size(self.shape).numel()

    def record(self) -> dict[str, Any]:
        """Return it as JSON."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {"form": self.form, "dtype": dtype, "shape": list(self.shape), "changed": self.changed, "before": self.before}


def hash_of(tensor: Tensor) -> str:
    """Return the SHA-256 of the bytes of a tensor, in row order."""
    return hashlib.sha256(bytes_of(tensor)).hexdigest()


def write_delta(
    base: str | Path,
    changed: Mapping[str, Tensor],
    out_folder: Path,
    *,
    section: ModelSection | None = None,
    world: WorldSection | None = None,
) -> Path:
    """Write what differs from a checkpoint, with the hash of the weights it belongs to, and return the folder.

    Every tensor is kept in its smallest form; one after the other is compared, then written.

    Args:
        base: A local folder, a hub name or a `world:` name.
        changed: New values by parameter name, as the full model has them; cast to the dtype they are stored in.
        out_folder: Where delta.safetensors and delta.json go, whole or not at all.
        section: Where it is given: revision and trust_remote_code.
        world: Which embedded world `world:` means.

    Raises:
        ModelError: The base cannot be read, a tensor does not fit it, or `out_folder` overlaps it.
    """
    opened = StoredModel(base, section, world)
    check_apart(opened.folder, out_folder)
    opened.check(changed)
    entries: dict[str, Entry] = {}
    for name in changed:
        for stored, value in opened.stored(name, changed[name]).items():
            if stored not in entries:
                entries[stored] = _entry(opened.value(stored), value)
    kept = {stored: entry for stored, entry in entries.items() if entry.changed}
    announced: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for stored, entry in kept.items():
        if entry.form == "whole":
            announced[stored] = (entry.dtype, entry.shape)
        else:
            announced["values/" + stored] = (entry.dtype, (entry.changed,))
            announced["places/" + stored] = positions_shape(entry.form, entry.changed, entry.entries)
    with folder_aside(out_folder) as aside:
        left = dict(kept)
        with TensorWriter(aside / _TENSORS, announced, {"format": "pt"}) as writer:
            for name in changed:
                for stored, value in opened.stored(name, changed[name]).items():
                    found = left.pop(stored, None)
                    if found is not None:
                        _write(writer, stored, found, opened.value(stored), value.cpu())
        write_json(
            aside / _RECORD,
            {
                "schema": DELTA_SCHEMA,
                "base": opened.name,
                "revision": section.revision if section is not None else None,
                "base_weights": files_hash(opened.checkpoint),
                "delta_hash": hash_file(aside / _TENSORS),
                "tensors": {stored: kept[stored].record() for stored in sorted(kept)},
            },
        )
    return out_folder


def _entry(before: Tensor, after: Tensor) -> Entry:
    count = int(differing(before, after.cpu()).sum())
    form = smallest(count, before.numel(), before.element_size())
    return Entry(form, before.dtype, tuple(before.shape), count, hash_of(before) if count else "")


def _write(writer: TensorWriter, stored: str, entry: Entry, before: Tensor, after: Tensor) -> None:
    if entry.form == "whole":
        writer.write(stored, after)
        return
    mask = differing(before, after)
    writer.write("values/" + stored, after[mask] if after.dim() else after.reshape(1))
    writer.write("places/" + stored, pack(entry.form, mask))


@dataclass(frozen=True)
class Delta:
    """A delta that was read: its record is checked, its tensors are backed by the file.

    Attributes:
        folder: Where it lies.
        base: What its base was called.
        base_weights: The hash of the base's weights.
        parameters: Of schema 1: new values by parameter name.
        entries: Of schema 2: what is kept of each stored tensor.
    """

    folder: Path
    base: str
    base_weights: str
    parameters: dict[str, Tensor]
    entries: dict[str, Entry]

    def pieces(self, stored: str) -> tuple[Tensor | None, Tensor]:
        """Return the places (int64, (c,), rising; None: everywhere) and the new entries of a stored tensor, (c,) or its shape.

        Raises:
            ModelError: They do not fit together.
        """
        tensors, entry = mapped(self.folder / _TENSORS), self.entries[stored]
        if entry.form == "whole":
            return None, _fitting(self, tensors[stored], stored, entry.dtype, entry.shape)
        values = _fitting(self, tensors["values/" + stored], stored, entry.dtype, (entry.changed,))
        try:
            return unpack(entry.form, tensors["places/" + stored], entry.changed, entry.entries), values
        except ValueError as error:
            raise ModelError(f"{self.folder}: {stored} is damaged: {error}. Copy the delta again.") from error


def _fitting(delta: Delta, tensor: Tensor, stored: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if tensor.dtype != dtype or tuple(tensor.shape) != shape:
        raise ModelError(
            f"{delta.folder}: {stored} is damaged: {_TENSORS} holds {tensor.dtype} of shape {list(tensor.shape)}, {_RECORD} says {dtype} "
            f"{list(shape)}. Copy the delta again."
        )
    return tensor


def read_delta(folder: Path) -> Delta:
    """Return a delta, after checking its record and its files against each other.

    Raises:
        ModelError: It is no delta, is damaged, or was written by a later version.
    """
    try:
        record: Any = read_json(folder / _RECORD)
        tensors = mapped(folder / _TENSORS)
    except DataError as error:
        raise ModelError(f"{folder}: is no delta ({error})") from error
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema not in _READ:
        raise ModelError(
            f"{folder / _RECORD}: schema = {json.dumps(schema)}, this version reads {' and '.join(map(str, _READ))}. Use a later version."
        )
    missing = _WANTED[schema] - record.keys()
    if missing:
        raise ModelError(f"{folder / _RECORD}: lacks {', '.join(sorted(missing))}")
    if schema == 1:
        if sorted(record["names"]) != sorted(tensors):
            raise ModelError(f"{folder}: {_RECORD} names {len(record['names'])} tensors, {_TENSORS} holds {len(tensors)} others")
        return Delta(folder, record["base"], record["base_weights"], tensors, {})
    if hash_file(folder / _TENSORS) != record["delta_hash"]:
        raise ModelError(f"{folder / _TENSORS}: is damaged: its hash is not the one in {_RECORD}. Copy the delta again.")
    entries = {stored: _read_entry(folder, stored, said) for stored, said in record["tensors"].items()}
    expected = {
        name
        for stored, entry in entries.items()
        for name in ([stored] if entry.form == "whole" else [f"values/{stored}", f"places/{stored}"])
    }
    if expected != set(tensors):
        odd = sorted(expected ^ set(tensors))
        raise ModelError(
            f"{folder}: {_RECORD} and {_TENSORS} do not hold the same tensors (e.g. {odd[0]}). Copy the delta again."
        )
    return Delta(folder, record["base"], record["base_weights"], {}, entries)


def _read_entry(folder: Path, stored: str, said: Any) -> Entry:
    try:
        form, dtype, shape = said["form"], getattr(torch, said["dtype"]), tuple(int(size) for size in said["shape"])
        entry = Entry(form, dtype, shape, int(said["changed"]), str(said["before"]))
        if form not in FORMS or not isinstance(dtype, torch.dtype):
            raise ValueError(f"form {form!r}, dtype {said['dtype']!r}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder / _RECORD}: tensors.{stored} is not understood ({error!r}): {said}") from error
    return entry


def apply_delta(
    delta_folder: Path,
    base: str | Path,
    out_folder: Path,
    *,
    section: ModelSection | None = None,
    world: WorldSection | None = None,
) -> Path:
    """Write the checkpoint that a base and a delta make, and return its folder. Memory: one tensor.

    Args:
        delta_folder: What `write_delta` wrote.
        base: The base it was made for, wherever it lies.
        out_folder: Where the checkpoint goes, whole or not at all.
        section: Where it is given: revision and trust_remote_code.
        world: Which embedded world `world:` means.

    Raises:
        ModelError: The delta is damaged, or the base's weights are not those it was made for.
    """
    delta = read_delta(Path(delta_folder))
    source = resolve_path(str(base), world or WorldSection())
    found = files_hash(open_checkpoint(source, section.revision if section is not None else None))
    if found != delta.base_weights:
        raise ModelError(
            f"{delta_folder}: was made for {delta.base} with weights {delta.base_weights[:12]}, but {base} has weights {found[:12]}. "
            "Give the base it was made for."
        )
    if delta.parameters:
        return write_changed(base, delta.parameters, out_folder, section=section, world=world)
    opened = StoredModel(base, section, world)
    check_apart(opened.folder, out_folder)
    for stored, entry in delta.entries.items():
        if stored not in opened.checkpoint.file_of or opened.checkpoint.place_of(stored).shape != entry.shape:
            raise ModelError(f"{delta_folder}: {base} stores no {stored} of shape {list(entry.shape)}. The delta is damaged.")
    return write_stored(opened, _patched(delta, opened.value), out_folder)


def _patched(delta: Delta, base: Callable[[str], Tensor]) -> Iterator[tuple[str, Tensor]]:
    for stored in delta.entries:
        places, values = delta.pieces(stored)
        if places is None:
            yield stored, values
        else:
            yield stored, base(stored).clone().put_(places, values)
