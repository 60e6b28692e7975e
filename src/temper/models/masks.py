"""Mask files: which single weights may change, one bit a weight, tied to the model they were made for.

A file is safetensors: parameter name to its mask, flattened in row order, eight entries a byte, the first in the highest
bit. The header `temper` is JSON: the schema, the names and shapes of all parameters of the model with their hash, the hash
of the weights if it was given, and free facts, such as how the mask was made. Equal masks give equal bytes.

A parameter that a file does not name has no entry that may change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor, nn

from temper.errors import ModelError
from temper.files import file_aside, hash_json

__all__ = ["SCHEMA", "density", "load_masks", "mask_facts", "parameters_hash", "save_masks"]

SCHEMA = "temper/mask/1"


def _shapes(model: nn.Module) -> list[list[Any]]:
    return [[name, list(parameter.shape)] for name, parameter in model.named_parameters()]


def parameters_hash(model: nn.Module) -> str:
    """Return the SHA-256 of the names and shapes of a model's parameters, in their order."""
    return hash_json(_shapes(model))


def save_masks(
    path: Path,
    masks: Mapping[str, Tensor],
    model: nn.Module,
    facts: Mapping[str, Any] | None = None,
    *,
    weights_hash: str | None = None,
) -> Path:
    """Write masks whole.

    Args:
        path: The file.
        masks: Parameter name to a boolean tensor of its shape, True where it may change.
        model: The model they are for.
        facts: JSON values that say how they were made.
        weights_hash: The hash of the weights they were computed from.

    Raises:
        ModelError: A mask does not fit the model.
    """
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    for name, mask in masks.items():
        if name not in shapes:
            raise ModelError(f"mask of {name}: {type(model).__name__} has no parameter of this name")
        if mask.dtype != torch.bool or list(mask.shape) != shapes[name]:
            raise ModelError(
                f"mask of {name}: is {mask.dtype} of shape {list(mask.shape)}; it must be torch.bool of shape {shapes[name]}"
            )
    header = {
        "schema": SCHEMA,
        "parameters": _shapes(model),
        "parameters_hash": parameters_hash(model),
        "weights_hash": weights_hash,
        "facts": dict(facts or {}),
    }
    packed = {name: np.packbits(mask.cpu().numpy().reshape(-1)) for name, mask in masks.items()}
    data = save(packed, {"temper": json.dumps(header, sort_keys=True, allow_nan=False)})
    with file_aside(path) as handle:
        handle.write(data)
    return path


def _header(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    try:
        header = json.loads((metadata or {}).get("temper", "null"))
    except json.JSONDecodeError as error:
        raise ModelError(f"{path}: the header of the mask file is damaged ({error})") from error
    schema = header.get("schema") if isinstance(header, dict) else None
    if schema != SCHEMA:
        raise ModelError(f"{path}: is not a mask file (schema {schema!r}, expected {SCHEMA!r})")
    missing = {"parameters", "parameters_hash", "weights_hash", "facts"} - header.keys()
    if missing:
        raise ModelError(f"{path}: the header of the mask file lacks {', '.join(sorted(missing))}")
    return dict(header)


def _open(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(f"{path}: no such mask file")
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: is not a safetensors file, or is damaged ({error})") from error


def mask_facts(path: Path) -> dict[str, Any]:
    """Return the header of a mask file: schema, parameters, their hash, the weights' hash, facts.

    Raises:
        ModelError: It is not a mask file.
    """
    with _open(path) as stored:
        return _header(path, stored.metadata())


def load_masks(path: Path, model: nn.Module, *, weights_hash: str | None = None) -> dict[str, Tensor]:
    """Return the masks of a file, parameter name to a boolean tensor of its shape.

    Args:
        path: The file.
        model: The model they are for.
        weights_hash: The hash of the weights at hand; compared where the file has one too.

    Raises:
        ModelError: The file is damaged, or was made for another model.
    """
    masks: dict[str, Tensor] = {}
    with _open(path) as stored:
        header = _header(path, stored.metadata())
        _check_model(path, header, model)
        if weights_hash is not None and header["weights_hash"] not in (None, weights_hash):
            raise ModelError(
                f"{path}: was computed from weights with the hash {header['weights_hash'][:12]}..., these have {weights_hash[:12]}.... "
                "Make the mask again from these weights."
            )
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        for name in stored.keys():  # noqa: SIM118 - not a mapping
            if name not in shapes:
                raise ModelError(f"{path}: holds a mask of {name}, which its own header does not name; the file is damaged")
            packed, count = stored.get_tensor(name), int(np.prod(shapes[name], dtype=np.int64))
            if packed.dtype != np.uint8 or packed.shape != ((count + 7) // 8,):
                raise ModelError(
                    f"{path}: the mask of {name} is {packed.dtype} of shape {list(packed.shape)}; expected uint8 of shape {[(count + 7) // 8]}"
                )
            # unpacked bits are bytes of 0 or 1, which is what a boolean is
            masks[name] = torch.from_numpy(np.unpackbits(packed, count=count).view(np.bool_).reshape(shapes[name]))
    return masks


def _check_model(path: Path, header: dict[str, Any], model: nn.Module) -> None:
    stored, here = header["parameters"], _shapes(model)
    if header["parameters_hash"] == hash_json(here):
        return
    for (name, shape), (own_name, own_shape) in zip(stored, here, strict=False):
        if name != own_name:
            difference = f"it has a parameter {name} where {type(model).__name__} has {own_name}"
            break
        if shape != own_shape:
            difference = f"{name} has the shape {shape} there and {own_shape} here"
            break
    else:
        difference = f"it has {len(stored)} parameters, {type(model).__name__} has {len(here)}"
    raise ModelError(f"{path}: was made for another model: {difference}. Make a mask for this model.")


def density(masks: Mapping[str, Tensor], model: nn.Module) -> float:
    """Return the share of a model's weights that may change, in [0, 1].

    A parameter without a mask counts whole if it requires a gradient, else not at all.
    """
    selected = total = 0
    for name, parameter in model.named_parameters():
        total += parameter.numel()
        if name in masks:
            selected += int(masks[name].sum())
        elif parameter.requires_grad:
            selected += parameter.numel()
    return selected / total
