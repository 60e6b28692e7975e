"""Mask files: which single weights may change, one bit a weight, tied to the model they were made for.

A file is safetensors: parameter name to its mask, flattened in row order, eight entries a byte, the first in the highest
bit. The header `temper` is JSON: the schema, the names and shapes of all parameters of the model with their hash, the hash
of the weights if it was given, and free facts, such as how the mask was made. Equal masks give equal bytes.

A parameter that a file does not name has no entry that may change. Files are written parameter by parameter and read through a
memory map: neither takes memory for more than one mask.

A model that was cut (`temper.models.cut`) takes the masks of the parameters it has from a file that was made for the whole one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from temper.errors import DataError, ModelError
from temper.files import folder_aside, hash_json
from temper.models.kinds import layer_of
from temper.models.maskset import PackedMasks, combine, densities, overlap, packed_bits
from temper.models.tensorfile import TensorWriter, mapped, read_header

__all__ = [
    "SCHEMA",
    "Parameters",
    "combine",
    "densities",
    "load_masks",
    "mask_facts",
    "open_masks",
    "overlap",
    "parameters_hash",
    "save_masks",
]

SCHEMA = "temper/mask/1"

Parameters = Sequence[tuple[str, Sequence[int]]]
"""Names and shapes of all parameters of a model, in its order: what a header tells of a model that is not at hand."""


def _shapes(model: nn.Module | Parameters) -> list[list[Any]]:
    pairs = ((name, p.shape) for name, p in model.named_parameters()) if isinstance(model, nn.Module) else model
    return [[name, list(shape)] for name, shape in pairs]


def parameters_hash(model: nn.Module | Parameters) -> str:
    """Return the SHA-256 of the names and shapes of a model's parameters, in their order."""
    return hash_json(_shapes(model))


def save_masks(
    path: Path,
    masks: Mapping[str, Tensor],
    model: nn.Module | Parameters,
    facts: Mapping[str, Any] | None = None,
    *,
    weights_hash: str | None = None,
) -> Path:
    """Write masks whole, asking for one after the other.

    Args:
        path: The file.
        masks: Parameter name to a boolean tensor of its shape, True where it may change.
        model: The whole model they are for, or the names and shapes of its parameters.
        facts: JSON values that say how they were made.
        weights_hash: The hash of the weights they were computed from.

    Raises:
        ModelError: A mask does not fit the model, or the model was cut.
    """
    if getattr(getattr(model, "config", None), "temper_full_layers", None) is not None:
        raise ModelError(
            f"{path}: {type(model).__name__} was cut, and a mask file is tied to the whole model. Give the names and shapes of its parameters."
        )
    parameters = _shapes(model)
    shapes = {name: tuple(shape) for name, shape in parameters}
    for name in masks:
        if name not in shapes:
            whose = type(model).__name__ if isinstance(model, nn.Module) else "the model"
            raise ModelError(f"mask of {name}: {whose} has no parameter of this name")
    header = {
        "schema": SCHEMA,
        "parameters": parameters,
        "parameters_hash": hash_json(parameters),
        "weights_hash": weights_hash,
        "facts": dict(facts or {}),
    }
    metadata = {"temper": json.dumps(header, sort_keys=True, allow_nan=False)}
    places = {name: (torch.uint8, (_bytes(shapes[name]),)) for name in sorted(masks)}
    with folder_aside(path.with_name(f".{path.name}.whole")) as aside, TensorWriter(aside / "mask", places, metadata) as writer:
        for name in places:
            writer.write(name, torch.from_numpy(_checked_bits(masks, name, shapes[name])))
    # a file cannot be written aside by the writer itself, which makes it; its folder is complete and flushed here
    folder = path.with_name(f".{path.name}.whole")
    os.replace(folder / "mask", path)
    folder.rmdir()
    return path


def _bytes(shape: Sequence[int]) -> int:
    return (int(np.prod(shape, dtype=np.int64)) + 7) // 8


def _checked_bits(masks: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> np.ndarray:
    # a mask that is computed when it is asked for is asked for once
    held = masks if isinstance(masks, PackedMasks) else {name: masks[name]}
    own = (torch.bool, held.shape(name)) if isinstance(held, PackedMasks) else (held[name].dtype, tuple(held[name].shape))
    if own != (torch.bool, shape):
        raise ModelError(f"mask of {name}: is {own[0]} of shape {list(own[1])}; it must be torch.bool of shape {list(shape)}")
    return packed_bits(held, name)


def _header(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Return the header of a file and the shapes of the model's parameters."""
    if not path.is_file():
        raise ModelError(f"{path}: no such mask file")
    try:
        _, metadata = read_header(path)
    except (DataError, OSError) as error:
        raise ModelError(f"{path}: is not a safetensors file, or is damaged ({error})") from error
    try:
        header = json.loads(metadata.get("temper", "null"))
    except json.JSONDecodeError as error:
        raise ModelError(f"{path}: the header of the mask file is damaged ({error})") from error
    schema = header.get("schema") if isinstance(header, dict) else None
    if schema != SCHEMA:
        raise ModelError(f"{path}: is not a mask file (schema {schema!r}, expected {SCHEMA!r})")
    missing = {"parameters", "parameters_hash", "weights_hash", "facts"} - header.keys()
    if missing:
        raise ModelError(f"{path}: the header of the mask file lacks {', '.join(sorted(missing))}")
    try:
        shapes = {str(name): tuple(int(n) for n in shape) for name, shape in header["parameters"]}
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path}: the header of the mask file is damaged (parameters: {error})") from error
    if not isinstance(header["facts"], dict) or header["parameters_hash"] != hash_json(header["parameters"]):
        raise ModelError(f"{path}: the header of the mask file is damaged (its parameters do not have the hash it gives)")
    return dict(header), shapes


def mask_facts(path: Path) -> dict[str, Any]:
    """Return the header of a mask file: schema, parameters, their hash, the weights' hash, facts.

    Raises:
        ModelError: It is not a mask file.
    """
    return _header(path)[0]


def open_masks(path: Path) -> tuple[dict[str, Any], PackedMasks]:
    """Return the header and the masks of a file, without the model.

    Raises:
        ModelError: It is not a mask file, or is damaged.
    """
    header, shapes = _header(path)
    tensors = mapped(path)
    for name, tensor in tensors.items():
        if name not in shapes:
            raise ModelError(f"{path}: holds a mask of {name}, which its own header does not name; the file is damaged")
        if tensor.dtype != torch.uint8 or tuple(tensor.shape) != (_bytes(shapes[name]),):
            dtype, expected = str(tensor.dtype).removeprefix("torch."), [_bytes(shapes[name])]
            raise ModelError(
                f"{path}: the mask of {name} is {dtype} of shape {list(tensor.shape)}; expected uint8 of shape {expected}"
            )
        unused = 8 * len(tensor) - int(np.prod(shapes[name], dtype=np.int64))
        if unused and int(tensor[-1]) & (2**unused - 1):
            raise ModelError(f"{path}: the mask of {name} goes on after its last entry; the file is damaged")
    return header, PackedMasks({name: shapes[name] for name in tensors}, lambda name: tensors[name].numpy())


def load_masks(path: Path, model: nn.Module, *, weights_hash: str | None = None) -> PackedMasks:
    """Return the masks of a file, parameter name to a boolean tensor of its shape that is unpacked when it is asked for.

    Every parameter of the model has one: that of a parameter the file does not name selects nothing.

    Args:
        path: The file.
        model: The model they are for; where it was cut, the masks of what was cut away are passed over.
        weights_hash: The hash of the weights at hand; compared where the file has one too.

    Raises:
        ModelError: The file is damaged, or was made for another model.
    """
    header, masks = open_masks(path)
    _check_model(path, header, model)
    if weights_hash is not None and header["weights_hash"] not in (None, weights_hash):
        raise ModelError(
            f"{path}: was computed from weights with the hash {header['weights_hash'][:12]}..., these have {weights_hash[:12]}.... "
            "Make the mask again from these weights."
        )
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    return PackedMasks(shapes, lambda name: masks.bits(name) if name in masks else np.zeros(_bytes(shapes[name]), dtype=np.uint8))


def _check_model(path: Path, header: dict[str, Any], model: nn.Module) -> None:
    stored, here = header["parameters"], _shapes(model)
    full_layers = getattr(getattr(model, "config", None), "temper_full_layers", None)
    if full_layers is not None:
        layers = {layer for name, _ in stored if (layer := layer_of(name)) is not None}
        if len(layers) != full_layers:
            raise ModelError(
                f"{path}: was made for another model: it has {len(layers)} decoder blocks, {type(model).__name__} has {full_layers}. Make a mask for "
                "this model."
            )
        own = {name for name, _ in here}
        stored = [[name, shape] for name, shape in stored if name in own]
    if stored != here:
        raise ModelError(f"{path}: was made for another model: {_difference(stored, here, model)}. Make a mask for this model.")


def _difference(stored: list[list[Any]], here: list[list[Any]], model: nn.Module) -> str:
    """Return the first difference between the parameters of a file and those of a model, in words."""
    for (name, shape), (own_name, own_shape) in zip(stored, here, strict=False):
        if name != own_name:
            return f"it has a parameter {name} where {type(model).__name__} has {own_name}"
        if shape != own_shape:
            found = f"{name} has the shape {shape} there and {own_shape} here"
            if layer_of(name) is None and len(shape) == 2 and shape[1:] == own_shape[1:]:  # an embedding or a head
                found += ", which is another vocabulary (was a token added to the tokenizer?)"
            return found
    return f"it has {len(stored)} parameters, {type(model).__name__} has {len(here)}"
