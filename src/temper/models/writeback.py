"""From trained tensors back to a checkpoint that any loader opens, without the full model in memory.

A changed tensor keeps its dtype, its shape and so its place: a shard is copied byte for byte and the changed ranges are
written over. What is untouched stays identical, header and metadata included. A delta holds the changed tensors alone and
applies to the exact weights it was made for.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from temper.errors import DataError, ModelError, nearest
from temper.files import folder_aside, hash_file, read_json, write_json
from temper.models.checkpoint import INDEX_FILE, Checkpoint, StoredNames, open_checkpoint, skeleton_of
from temper.models.load import load_config, resolve_path
from temper.models.tensorfile import TensorWriter, bytes_of, mapped
from temper.recipe import ModelSection, WorldSection

__all__ = ["DELTA_SCHEMA", "apply_delta", "write_changed", "write_delta"]

DELTA_SCHEMA = 1
_DELTA_FILE, _DELTA_TENSORS = "delta.json", "delta.safetensors"
_BESIDE = (".json", ".txt", ".model", ".jinja")
"""What is copied beside the weights: configuration, tokenizer, chat template, generation settings. Never pickles."""
_NOT_COPIED = ("adapter_config.json", _DELTA_FILE)
_STORED_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class _Base:
    """A checkpoint that is written back into: its files and what its tensors are called in memory.

    Args:
        base: A local folder, a hub name or a `world:` name.
        section: Where it is given: revision and trust_remote_code.
        world: Which embedded world `world:` means.
    """

    def __init__(self, base: str | Path, section: ModelSection | None, world: WorldSection | None) -> None:
        world = world or WorldSection()
        self.name = str(base)
        source = resolve_path(self.name, world)
        self.folder = _beside(source, section)
        trusted = section is not None and section.trust_remote_code
        config = load_config(str(self.folder), section=section, world=world)
        if getattr(config, "quantization_config", None) is not None:
            raise ModelError(
                f"{base}: holds quantised weights, which cannot be written back into. Use the weights they were made from."
            )
        self.checkpoint = open_checkpoint(source, section.revision if section is not None else None)
        skeleton = skeleton_of(config, trust_remote_code=trusted)
        self._names = StoredNames(skeleton)
        self._parts: dict[str, list[str]] = {}
        self._converted: set[str] = set()
        for stored in self.checkpoint.file_of:
            name, converted = self._names.parameter_of(stored)
            if name is not None:
                self._parts.setdefault(name, []).append(stored)
                if converted:
                    self._converted.add(name)
        # names of one matrix: input embedding and head, where they are shared
        self._twins: dict[str, str] = {}
        for target, source in (getattr(skeleton, "all_tied_weights_keys", None) or {}).items():
            self._twins |= {target: source, source: target}

    def targets(self, name: str) -> list[str]:
        """Return the stored parameters that must change with this one: itself, and the name it shares its matrix with.

        Raises:
            ModelError: The checkpoint holds neither.
        """
        twin = self._twins.get(name)
        found = [known for known in (name, twin) if known is not None and known in self._parts]
        if len(found) == 2 and not self._same(*(self._parts[known][0] for known in found)):
            return [name]  # stored apart with values of their own, which transformers then keeps apart
        if not found:
            raise ModelError(
                f"changed[{name!r}]: {self.name} holds no such parameter{nearest(name, self._parts)}. Use the names of the full model."
            )
        return found

    def _same(self, first: str, second: str) -> bool:
        one, other = (mapped(self.checkpoint.path_of(self.checkpoint.file_of[stored]))[stored] for stored in (first, second))
        return torch.equal(one, other)

    def stored(self, name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the stored tensors that a new value of a parameter becomes, in the dtype they are stored in.

        Raises:
            ModelError: No such parameter, another shape, weights that are not plain floats, or a layout that cannot be undone.
        """
        result: dict[str, torch.Tensor] = {}
        for target in self.targets(name):
            expected = self._parts[target]
            if target in self._converted:
                parts = self._names.stored_as(target, tensor.detach(), set(self.checkpoint.file_of))
            else:
                parts = dict.fromkeys(expected, tensor.detach())
            if set(parts) != set(expected):
                raise ModelError(
                    f"changed[{name!r}]: {self.name} keeps it as {', '.join(sorted(expected)[:3])}, which cannot be made from this tensor alone. "
                    "Save the full model instead."
                )
            for stored, value in parts.items():
                place = self.checkpoint.place_of(stored)
                if tuple(value.shape) != place.shape:
                    raise ModelError(
                        f"changed[{name!r}] has shape {list(tensor.shape)}; {self.name} stores {stored} with shape {list(place.shape)}, "
                        f"not {list(value.shape)}. Give the whole tensor of the same model."
                    )
                if place.dtype not in _STORED_FLOATS:
                    raise ModelError(
                        f"changed[{name!r}]: {self.name} stores {stored} as {place.dtype}, which is not a plain float"
                    )
                result[stored] = value.to(place.dtype)
        return result

    def stored_dtype(self, name: str) -> torch.dtype:
        """Return the dtype a parameter is stored in."""
        return self.checkpoint.place_of(self._parts[self.targets(name)[0]][0]).dtype

    def check(self, changed: Mapping[str, torch.Tensor]) -> None:
        """Check that nothing is asked for twice.

        Raises:
            ModelError: Nothing is changed, or both names of a shared matrix are given with different values.
        """
        if not changed:
            raise ModelError("changed is empty: there is nothing to write back. Give at least one tensor.")
        for name, tensor in changed.items():
            twin = self._twins.get(name)
            if twin in changed and not torch.equal(tensor, changed[str(twin)]):
                raise ModelError(
                    f"changed holds different values for {name!r} and {twin!r}, which are one matrix in {self.name}. Give one of them."
                )


def _beside(source: str, section: ModelSection | None) -> Path:
    """Return the folder with what lies beside the weights; of a hub model, fetched without them."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    patterns = [f"*{ending}" for ending in (*_BESIDE, ".py")]
    try:
        return Path(
            snapshot_download(source, revision=section.revision if section is not None else None, allow_patterns=patterns)
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{source}: could not be fetched ({error}). Give a local folder, or a hub name that this machine can reach."
        ) from error


def _weights_hash(checkpoint: Checkpoint) -> str:
    """Return one hash over the files that are loaded; of a plain folder the same as `weights_hash` gives.

    Some hub models hold their weights a second time under another name, which not every copy of them has.
    """
    digest = hashlib.sha256()
    for file in sorted(set(checkpoint.file_of.values())):
        digest.update(file.encode() + bytes.fromhex(hash_file(checkpoint.path_of(file))))
    return digest.hexdigest()


def _check_apart(base: Path, out: Path) -> None:
    here, there = base.resolve(), out.resolve()
    if here == there or here.is_relative_to(there) or there.is_relative_to(here):
        raise ModelError(f"out = {out}: lies in, around or on the base {base}. Name another folder.")


def write_changed(
    base: str | Path,
    changed: Mapping[str, torch.Tensor],
    out_folder: Path,
    *,
    section: ModelSection | None = None,
    world: WorldSection | None = None,
) -> Path:
    """Write a copy of a checkpoint in which some tensors are replaced, and return its folder.

    Every other tensor is copied byte for byte, a shard without changes as a whole. Memory: the changed tensors.

    Args:
        base: A local folder, a hub name or a `world:` name; it is not changed.
        changed: New values by parameter name, as the full model has them; cast to the dtype they are stored in.
        out_folder: Where the copy goes, whole or not at all.
        section: Where it is given: revision and trust_remote_code.
        world: Which embedded world `world:` means.

    Raises:
        ModelError: The base cannot be read, a tensor does not fit it, or `out_folder` overlaps it.
    """
    opened = _Base(base, section, world)
    _check_apart(opened.folder, out_folder)
    opened.check(changed)
    checkpoint = opened.checkpoint
    where = {stored: name for name, tensor in changed.items() for stored in opened.stored(name, tensor)}  # checked before copying
    with folder_aside(out_folder) as aside:
        _copy_beside(opened.folder, aside, checkpoint.is_sharded)
        for file in sorted(set(checkpoint.file_of.values())):
            target = aside / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkpoint.path_of(file), target)
        for name in dict.fromkeys(where.values()):
            for stored, value in opened.stored(name, changed[name]).items():
                place = checkpoint.place_of(stored)
                with (aside / checkpoint.file_of[stored]).open("r+b") as handle:
                    handle.seek(place.start)
                    handle.write(bytes_of(value))
    return out_folder


def _copy_beside(folder: Path, aside: Path, is_sharded: bool) -> None:
    config = read_json(folder / "config.json")
    # code that came with the model is copied only where the configuration asks for it; it runs only if it is trusted again
    endings = (*_BESIDE, ".py") if "auto_map" in config else _BESIDE
    for file in sorted(folder.iterdir()):
        is_index = file.name.endswith(".index.json")
        if not file.is_file() or file.suffix not in endings or file.name in _NOT_COPIED:
            continue
        if not is_index or (is_sharded and file.name == INDEX_FILE):
            shutil.copyfile(file, aside / file.name)


def write_delta(
    base: str | Path,
    changed: Mapping[str, torch.Tensor],
    out_folder: Path,
    *,
    section: ModelSection | None = None,
    world: WorldSection | None = None,
) -> Path:
    """Write the changed tensors alone, with the hash of the weights they belong to, and return the folder.

    Args:
        base: A local folder, a hub name or a `world:` name.
        changed: New values by parameter name, as the full model has them; cast to the dtype they are stored in.
        out_folder: Where delta.safetensors and delta.json go, whole or not at all.
        section: Where it is given: revision and trust_remote_code.
        world: Which embedded world `world:` means.

    Raises:
        ModelError: The base cannot be read, a tensor does not fit it, or `out_folder` overlaps it.
    """
    opened = _Base(base, section, world)
    _check_apart(opened.folder, out_folder)
    opened.check(changed)
    for name, tensor in changed.items():
        opened.stored(name, tensor)
    dtypes = {name: opened.stored_dtype(name) for name in changed}
    with folder_aside(out_folder) as aside:
        shapes = {name: (dtypes[name], tuple(tensor.shape)) for name, tensor in changed.items()}
        with TensorWriter(aside / _DELTA_TENSORS, shapes, {"format": "pt"}) as writer:
            for name, tensor in changed.items():
                writer.write(name, tensor.detach().to(dtypes[name]))
        write_json(
            aside / _DELTA_FILE,
            {
                "schema": DELTA_SCHEMA,
                "base": opened.name,
                "revision": section.revision if section is not None else None,
                "base_weights": _weights_hash(opened.checkpoint),
                "names": sorted(changed),
            },
        )
    return out_folder


@dataclass(frozen=True)
class _Delta:
    base: str
    base_weights: str
    tensors: dict[str, torch.Tensor]


def _read_delta(folder: Path) -> _Delta:
    try:
        record: Any = read_json(folder / _DELTA_FILE)
        tensors = mapped(folder / _DELTA_TENSORS)
    except DataError as error:
        raise ModelError(f"{folder}: is no delta ({error})") from error
    missing = {"schema", "base", "base_weights", "names"} - set(record if isinstance(record, dict) else ())
    if missing:
        raise ModelError(f"{folder / _DELTA_FILE}: lacks {', '.join(sorted(missing))}")
    if record["schema"] != DELTA_SCHEMA:
        raise ModelError(f"{folder / _DELTA_FILE}: schema = {json.dumps(record['schema'])}, this version reads {DELTA_SCHEMA}")
    if sorted(record["names"]) != sorted(tensors):
        raise ModelError(
            f"{folder}: {_DELTA_FILE} names {len(record['names'])} tensors, {_DELTA_TENSORS} holds {len(tensors)} others"
        )
    return _Delta(record["base"], record["base_weights"], tensors)


def apply_delta(
    delta_folder: Path,
    base: str | Path,
    out_folder: Path,
    *,
    section: ModelSection | None = None,
    world: WorldSection | None = None,
) -> Path:
    """Write the checkpoint that a base and a delta make, and return its folder.

    Args:
        delta_folder: What `write_delta` wrote.
        base: The base it was made for, wherever it lies.
        out_folder: Where the checkpoint goes, whole or not at all.
        section: Where it is given: revision and trust_remote_code.
        world: Which embedded world `world:` means.

    Raises:
        ModelError: The delta is damaged, or the base's weights are not those it was made for.
    """
    delta = _read_delta(Path(delta_folder))
    source = resolve_path(str(base), world or WorldSection())
    found = _weights_hash(open_checkpoint(source, section.revision if section is not None else None))
    if found != delta.base_weights:
        raise ModelError(
            f"{delta_folder}: was made for {delta.base} with weights {delta.base_weights[:12]}, but {base} has weights {found[:12]}. "
            "Give the base it was made for."
        )
    return write_changed(base, delta.tensors, out_folder, section=section, world=world)
