"""From trained tensors back to a checkpoint that any loader opens, without the full model in memory.

A changed tensor keeps its dtype, its shape and so its place: a shard is copied byte for byte and the changed ranges are
written over. What is untouched stays identical, header and metadata included. `temper.models.delta` keeps the changes alone.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from temper.errors import ModelError, nearest
from temper.files import folder_aside, hash_file, read_json
from temper.models.checkpoint import INDEX_FILE, Checkpoint, StoredNames, open_checkpoint, skeleton_of
from temper.models.load import load_config, resolve_path
from temper.models.sparse import differing
from temper.models.tensorfile import bytes_of, mapped
from temper.recipe import ModelSection, WorldSection

__all__ = ["StoredModel", "check_apart", "copy_beside", "files_hash", "write_changed", "write_stored"]

_BESIDE = (".json", ".txt", ".model", ".jinja")
"""What is copied beside the weights: configuration, tokenizer, chat template, generation settings. Never pickles."""
_NOT_COPIED = ("adapter_config.json", "delta.json")
_STORED_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class StoredModel:
    """A checkpoint that is written back into or compared: its files and what its tensors are called in memory.

    Args:
        base: A local folder, a hub name or a `world:` name.
        section: Where it is given: revision and trust_remote_code.
        world: Which embedded world `world:` means.

    Attributes:
        name: As it was given.
        folder: Where configuration and tokenizer lie.
        checkpoint: The files with weights.
        skeleton: The whole model without weights.
        parts: Parameter to the stored tensors it is made of: one of its own shape, or several that are converted on loading.
        twins: The other name of a matrix that has two.

    Raises:
        ModelError: It cannot be read, or holds quantised weights.
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
        self.skeleton = skeleton_of(config, trust_remote_code=trusted)
        self._names = StoredNames(self.skeleton)
        self.parts: dict[str, list[str]] = {}
        self._converted: set[str] = set()
        for stored in self.checkpoint.file_of:
            name, converted = self._names.parameter_of(stored)
            if name is not None:
                self.parts.setdefault(name, []).append(stored)
                if converted:
                    self._converted.add(name)
        # names of one matrix: input embedding and head, where they are shared
        self.twins: dict[str, str] = {}
        for target, source in (getattr(self.skeleton, "all_tied_weights_keys", None) or {}).items():
            self.twins |= {target: source, source: target}

    def targets(self, name: str) -> list[str]:
        """Return the stored parameters that must change with this one: itself, and the name it shares its matrix with.

        Raises:
            ModelError: The checkpoint holds neither.
        """
        twin = self.twins.get(name)
        found = [known for known in (name, twin) if known is not None and known in self.parts]
        if len(found) == 2 and not self._same(*(self.parts[known][0] for known in found)):
            return [name]  # stored apart with values of their own, which transformers then keeps apart
        if not found:
            raise ModelError(
                f"changed[{name!r}]: {self.name} holds no such parameter{nearest(name, self.parts)}. Use the names of the full model."
            )
        return found

    def _same(self, first: str, second: str) -> bool:
        return torch.equal(self.value(first), self.value(second))

    def value(self, stored: str) -> torch.Tensor:
        """Return a stored tensor, read as it is touched; its pages are let go with it."""
        tensor: torch.Tensor = mapped(self.checkpoint.path_of(self.checkpoint.file_of[stored]))[stored]
        return tensor

    def laid_out(self, name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor] | None:
        """Return a tensor of a parameter's shape, of any dtype, in the pieces the parameter is stored in; None where that cannot be done."""
        expected = self.parts[name]
        if name in self._converted:
            parts = self._names.stored_as(name, tensor.detach(), set(self.checkpoint.file_of))
        else:
            parts = dict.fromkeys(expected, tensor.detach())
        return parts if set(parts) == set(expected) else None

    def parameter(self, name: str) -> torch.Tensor:
        """Return the value of a parameter, in the shape it has in memory and the dtype it is stored in.

        Raises:
            ModelError: Where its stored pieces go cannot be told.
        """
        pieces = self.parts[name]
        if name not in self._converted:
            return self.value(pieces[0])
        shape = self.skeleton.get_parameter(name).shape
        places = self.laid_out(name, torch.arange(shape.numel()).reshape(shape))
        if places is None:
            raise ModelError(f"{self.name}: keeps {name} as {', '.join(sorted(pieces)[:3])}, whose places in it cannot be told")
        result = torch.empty(shape, dtype=self.checkpoint.place_of(pieces[0]).dtype)
        for piece in pieces:
            result.put_(places[piece], self.value(piece))
        return result

    def stored(self, name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the stored tensors that a new value of a parameter becomes, in the dtype they are stored in.

        Where the model was loaded in a dtype that cannot hold what is stored, an entry that is as it was loaded keeps its stored bits.

        Raises:
            ModelError: No such parameter, another shape, weights that are not plain floats, or a layout that cannot be undone.
        """
        result: dict[str, torch.Tensor] = {}
        for target in self.targets(name):
            parts = self.laid_out(target, tensor)
            if parts is None:
                raise ModelError(
                    f"changed[{name!r}]: {self.name} keeps it as {', '.join(sorted(self.parts[target])[:3])}, which cannot be made from this tensor alone. "
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
                result[stored] = self._cast(stored, value.cpu(), place.dtype)
        return result

    def _cast(self, stored: str, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if torch.promote_types(value.dtype, dtype) == value.dtype:
            return value.to(dtype)
        base = self.value(stored)
        return torch.where(differing(base.to(value.dtype), value), value.to(dtype), base)

    def check(self, changed: Mapping[str, torch.Tensor]) -> None:
        """Check that nothing is asked for twice.

        Raises:
            ModelError: Nothing is changed, or both names of a shared matrix are given with different values.
        """
        if not changed:
            raise ModelError("changed is empty: there is nothing to write back. Give at least one tensor.")
        for name, tensor in changed.items():
            twin = self.twins.get(name)
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


def files_hash(checkpoint: Checkpoint) -> str:
    """Return one hash over the files that are loaded; of a plain folder the same as `weights_hash` gives.

    Some hub models hold their weights a second time under another name, which not every copy of them has.
    """
    digest = hashlib.sha256()
    for file in sorted(set(checkpoint.file_of.values())):
        digest.update(file.encode() + bytes.fromhex(hash_file(checkpoint.path_of(file))))
    return digest.hexdigest()


def check_apart(base: Path, out: Path) -> None:
    """Check that a folder to write is not one that is read.

    Raises:
        ModelError: They overlap.
    """
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
    opened = StoredModel(base, section, world)
    check_apart(opened.folder, out_folder)
    opened.check(changed)
    where = {stored: name for name, tensor in changed.items() for stored in opened.stored(name, tensor)}  # checked before copying
    values = (pair for name in dict.fromkeys(where.values()) for pair in opened.stored(name, changed[name]).items())
    return write_stored(opened, values, out_folder)


def write_stored(opened: StoredModel, values: Iterable[tuple[str, torch.Tensor]], out_folder: Path) -> Path:
    """Write a copy of a checkpoint with some stored tensors replaced, and return its folder.

    Args:
        opened: The checkpoint.
        values: Stored name and new value, in the dtype and shape that are stored; drawn one at a time.
        out_folder: Where the copy goes, whole or not at all.
    """
    checkpoint = opened.checkpoint
    with folder_aside(out_folder) as aside:
        copy_beside(opened.folder, aside, checkpoint.is_sharded)
        for file in sorted(set(checkpoint.file_of.values())):
            target = aside / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkpoint.path_of(file), target)
        for stored, value in values:
            with (aside / checkpoint.file_of[stored]).open("r+b") as handle:
                handle.seek(checkpoint.place_of(stored).start)
                handle.write(bytes_of(value))
    return out_folder


def copy_beside(folder: Path, aside: Path, is_sharded: bool) -> None:
    """Copy what lies beside the weights of a model: configuration, tokenizer, chat template, generation settings; no pickles.

    Args:
        folder: From where.
        aside: To where.
        is_sharded: Whether the index of shards is copied too.
    """
    config = read_json(folder / "config.json")
    # code that came with the model is copied only where the configuration asks for it; it runs only if it is trusted again
    endings = (*_BESIDE, ".py") if "auto_map" in config else _BESIDE
    for file in sorted(folder.iterdir()):
        is_index = file.name.endswith(".index.json")
        if not file.is_file() or file.suffix not in endings or file.name in _NOT_COPIED:
            continue
        if not is_index or (is_sharded and file.name == INDEX_FILE):
            shutil.copyfile(file, aside / file.name)
