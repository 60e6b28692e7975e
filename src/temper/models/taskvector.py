"""Negated task vectors: the weights moved away from those of a model fine-tuned on the forget data.

Fine-tuning on the forget data takes θ_0 to θ_reinf; their difference is the task vector, and a step the other way is

    θ = θ_0 − a · (θ_reinf − θ_0)

a = 0 is θ_0, bit for bit, and a = −1 the reinforced model. Several vectors are summed before the step. Every floating
tensor of the state is moved, tied ones once; counters and other integers stay. The sum is taken in float32 (float64 for
float64 tensors) and rounded once to the dtype the tensor had.

Source: Ilharco et al., Editing models with task arithmetic (2023); Shi et al., MUSE (2024).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from temper.errors import ModelError

__all__ = ["FolderTensors", "negate", "negate_model", "negate_tensor"]


def negate_tensor(original: torch.Tensor, reinforced: Sequence[torch.Tensor], strength: float) -> torch.Tensor:
    """Return θ_0 − a · Σ(θ_reinf − θ_0), a new tensor with the original's dtype and device.

    Args:
        original: θ_0, any shape.
        reinforced: One tensor of that shape for each task vector.
        strength: a, any finite number.

    Example:
        >>> negate_tensor(torch.tensor([1.0, 2.0]), [torch.tensor([1.5, 2.0])], 2.0).tolist()
        [0.0, 2.0]
    """
    if strength == 0:
        return original.clone()  # −0.0 and values that are not finite would not survive the sum
    wide = torch.promote_types(original.dtype, torch.float32)
    start = original.to(wide)
    vector = torch.zeros_like(start)
    for tensor in reinforced:
        vector += tensor.to(device=start.device, dtype=wide) - start
    return torch.sub(start, vector, alpha=strength).to(original.dtype)


def negate(
    original: Mapping[str, torch.Tensor],
    reinforced: Mapping[str, torch.Tensor] | Sequence[Mapping[str, torch.Tensor]],
    strength: float,
) -> dict[str, torch.Tensor]:
    """Return the moved tensors by name; integers are copied from the original, names of one tensor (tied weights) share the result.

    Args:
        original: θ_0.
        reinforced: θ_reinf, or several of them.
        strength: a.

    Raises:
        ModelError: Names or shapes differ, what is tied in the original is not tied in the reinforced model, or the strength is
            not finite.
    """
    sources = [reinforced] if isinstance(reinforced, Mapping) else list(reinforced)
    groups = _checked(original, sources, strength)
    moved: dict[str, torch.Tensor] = {}
    for tensor, names in groups:
        value = negate_tensor(tensor, [_first(source, names) for source in sources], strength)
        moved.update(dict.fromkeys(names, value))
    return {name: moved[name] if name in moved else tensor.clone() for name, tensor in original.items()}


@torch.no_grad()
def negate_model(
    model: nn.Module, reinforced: nn.Module | str | Path | Sequence[nn.Module | str | Path], strength: float
) -> None:
    """Move the weights of a model in place, tensor by tensor; nothing is changed if anything does not fit.

    Args:
        model: Holds θ_0, and the result afterwards.
        reinforced: Another model or a folder of safetensors files, which is read one tensor at a time; or several of them.
        strength: a.

    Raises:
        ModelError: Names or shapes differ, what is tied in the model is not tied in the reinforced one, or the strength is not finite.
    """
    given = [reinforced] if isinstance(reinforced, nn.Module | str | Path) else list(reinforced)
    sources = [_state(item) if isinstance(item, nn.Module) else FolderTensors(item) for item in given]
    for tensor, names in _checked(_state(model), sources, strength):
        tensor.copy_(negate_tensor(tensor, [_first(source, names) for source in sources], strength))


class FolderTensors(Mapping[str, torch.Tensor]):
    """The tensors of a model folder, each read from its safetensors file when it is asked for.

    Args:
        folder: With one safetensors file or several shards.

    Raises:
        ModelError: There are none, one cannot be read, or two hold the same name.
    """

    def __init__(self, folder: str | Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.folder = Path(folder)
        self._file_of: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(file, framework="pt") as handle:
                    for name in handle.keys():  # noqa: SIM118 (the handle is no mapping)
                        if name in self._file_of:
                            raise ModelError(
                                f"{self.folder}: {self._file_of[name].name} and {file.name} both hold {name}. Keep one set of weights in the folder."
                            )
                        self._file_of[name] = file
                        self._shapes[name] = tuple(handle.get_slice(name).get_shape())
            except SafetensorError as error:
                raise ModelError(f"{file}: is no readable safetensors file ({error}). Save or copy it again.") from error
        if not self._file_of:
            raise ModelError(f"{self.folder}: holds no safetensors weights. Give the folder of a saved model.")

    def __getitem__(self, name: str) -> torch.Tensor:
        from safetensors import safe_open

        with safe_open(self._file_of[name], framework="pt") as handle:
            tensor: torch.Tensor = handle.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)

    def __contains__(self, name: object) -> bool:
        return name in self._file_of

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        return self._shapes[name]


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters and saved buffers under all their names; tied names give the same object."""
    state: dict[str, Any] = model.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _first(source: Mapping[str, torch.Tensor], names: Sequence[str]) -> torch.Tensor:
    """Return a tensor under the first of its names that the source has: a file keeps one name of tied weights."""
    return source[next(name for name in names if name in source)]


def _checked(
    original: Mapping[str, torch.Tensor], sources: Sequence[Mapping[str, torch.Tensor]], strength: float
) -> list[tuple[torch.Tensor, list[str]]]:
    """Return each floating tensor once with its names, after checking that every source fits."""
    if not math.isfinite(strength):
        raise ModelError(
            f"strength = {strength!r}: must be a finite number (0 keeps the model, 1 takes one step away from the reinforced one)"
        )
    if not sources:
        raise ModelError("no reinforced model is given. Give one or more.")
    groups: dict[int, tuple[torch.Tensor, list[str]]] = {}
    for name, tensor in original.items():
        if tensor.is_floating_point():
            groups.setdefault(id(tensor), (tensor, []))[1].append(name)
    for number, source in enumerate(sources):
        label = str(source.folder) if isinstance(source, FolderTensors) else f"reinforced model {number + 1}"
        unknown = sorted(set(source) - set(original))
        if unknown:
            raise ModelError(
                f"{label}: holds {unknown[0]} ({len(unknown)} such), which the original does not have. Give a model fine-tuned from the original; "
                "if its files name tensors in another way, load it and give the model."
            )
        for tensor, names in groups.values():
            _check_fit(label, source, tensor, names)
    return list(groups.values())


def _check_fit(label: str, source: Mapping[str, torch.Tensor], tensor: torch.Tensor, names: Sequence[str]) -> None:
    found = [name for name in names if name in source]
    if not found:
        raise ModelError(
            f"{label}: holds no {names[0]}. Give a model fine-tuned from the original, saved whole (an adapter merged)."
        )
    for name in found:
        shape = source.shape(name) if isinstance(source, FolderTensors) else tuple(source[name].shape)
        if shape != tuple(tensor.shape):
            raise ModelError(
                f"{label}: {name} has the shape {shape}, in the original {tuple(tensor.shape)}. Give a model fine-tuned from it."
            )
    if len(found) > 1:
        kept = source[found[0]]
        for name in found[1:]:
            other = source[name]
            if other is not kept and not torch.equal(other, kept):
                raise ModelError(
                    f"{label}: {found[0]} and {name} differ, but are one tensor in the original. Fine-tune with tied weights, or untie the original's."
                )
