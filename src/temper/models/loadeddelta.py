"""A delta on a model in memory: put onto the loaded base, taken off again, and off for a moment.

The entries that a delta changes are kept as they were, nothing else: the model from before costs the size of the delta, not
that of a second model (`temper.models.original` does the same for a model that trains).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from temper.errors import ModelError, nearest
from temper.models.checkpoint import StoredNames
from temper.models.delta import Delta, hash_of, read_delta

__all__ = ["LoadedDelta", "load_delta"]


@dataclass
class _Patch:
    """Some entries of one parameter.

    Attributes:
        parameter: In the model.
        places: Into the parameter read in row order, int64 (c,); None for all of it.
        values: What is not in the parameter at the moment: the entries from before, or the delta's.
    """

    parameter: nn.Parameter
    places: Tensor | None
    values: Tensor

    def swap(self) -> None:
        """Put the kept entries in and keep those that were there, bit for bit."""
        data = self.parameter.data
        values = self.values.to(data.device)
        if self.places is None:
            self.values = data.clone()
            data.copy_(values)
            return
        places = self.places.to(data.device)
        self.values = data.take(places)
        data.put_(places, values)


class LoadedDelta:
    """A delta that lies on a model. Use `load_delta`."""

    def __init__(self, patches: list[_Patch]) -> None:
        self._patches = patches
        self._is_on = False
        self._swap()

    @property
    def stored_bytes(self) -> int:
        """Return the memory that the entries from before and their places take."""
        kept = [tensor for patch in self._patches for tensor in (patch.values, patch.places) if tensor is not None]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)

    def remove(self) -> None:
        """Give the model its weights from before back, bit for bit. Once removed, it can be put on with `restore`."""
        if self._is_on:
            self._swap()

    def restore(self) -> None:
        """Put the delta on again."""
        if not self._is_on:
            self._swap()

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Give the model its original weights while the block lasts, as `OriginalWeights.active`; gradients are off."""
        was_on = self._is_on
        with torch.no_grad():
            self.remove()
            try:
                yield
            finally:
                if was_on:
                    self.restore()

    @torch.no_grad()
    def _swap(self) -> None:
        # in reverse order the second way, so that two patches of one place would come off as they went on
        for patch in self._patches if not self._is_on else reversed(self._patches):
            patch.swap()
        self._is_on = not self._is_on


def load_delta(model: Any, folder: Path) -> LoadedDelta:
    """Put a delta onto the model it was made for, in place, and return what takes it off again.

    The model is then what loading the applied checkpoint would give, bit for bit. Every tensor that changes is checked against
    the base's before any is touched. A model cut at a block takes the tensors it has.

    Args:
        model: The loaded base (transformers), without an adapter, in the dtype it is stored in or a wider one.
        folder: What `write_delta` wrote.

    Raises:
        ModelError: The delta is damaged, or the model is another one, has other weights or a narrower dtype.

    Example:
        >>> delta = load_delta(model, Path("runs/try/delta"))  # doctest: +SKIP
        >>> with delta.active():  # doctest: +SKIP
        ...     before = model(**inputs).logits
    """
    delta = read_delta(Path(folder))
    if hasattr(model, "peft_config"):
        raise ModelError(f"{folder}: the model wears an adapter, whose names are not those of the base. Load the delta first.")
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if delta.parameters:
        raise ModelError(
            f"{folder}: schema 1 has no hash of what each tensor was, so it cannot be told whether this is its base. Make the model with `temper apply`, "
            "which compares the files."
        )
    return LoadedDelta(_patches(model, parameters, delta))


def _is_cut_away(model: Any, parameters: dict[str, nn.Parameter], name: str | None) -> bool:
    return name not in parameters and getattr(model.config, "temper_full_layers", None) is not None


def _found(model: Any, parameters: dict[str, nn.Parameter], name: str | None, delta: Delta) -> nn.Parameter:
    if name is None or name not in parameters:
        raise ModelError(
            f"{delta.folder}: changes {name}, which {type(model).__name__} does not have{nearest(str(name), parameters)}. Load the base it was made "
            f"for ({delta.base})."
        )
    return parameters[name]


def _patches(model: Any, parameters: dict[str, nn.Parameter], delta: Delta) -> list[_Patch]:
    names = StoredNames(model)
    known = set(delta.entries)
    owners = {stored: names.parameter_of(stored) for stored in delta.entries}
    layouts: dict[str, dict[str, Tensor]] = {}
    patches, seen = [], set()
    for stored, entry in delta.entries.items():
        name, converted = owners[stored]
        if _is_cut_away(model, parameters, name):
            continue
        parameter = _found(model, parameters, name if name is not None else stored, delta)
        layout = None
        if converted and name is not None:
            if name not in layouts:
                layouts = {name: _layout(names, name, parameter, known)}  # one at a time: eight bytes an entry
            layout = layouts[name].get(stored)
            if layout is None:
                raise ModelError(
                    f"{delta.folder}: where {stored} lies in {name} cannot be told. Use temper apply, and load the result."
                )
        _check(model, delta, stored, parameter, layout)
        if (id(parameter), stored if layout is not None else None) in seen:
            continue  # a shared matrix, stored by both of its names
        seen.add((id(parameter), stored if layout is not None else None))
        places, values = delta.pieces(stored)
        if layout is not None:
            flat = layout.reshape(-1)
            places = flat.clone() if places is None else flat[places]
        shape = parameter.shape if places is None else (entry.changed if entry.form != "whole" else entry.entries,)
        patches.append(_Patch(parameter, places, values.to(parameter.dtype).reshape(shape)))
    return patches


def _layout(names: StoredNames, name: str, parameter: Tensor, known: set[str]) -> dict[str, Tensor]:
    """Return, for each stored tensor that a parameter is made of, where its entries lie in it: int64, of the stored shape."""
    places = torch.arange(parameter.numel()).reshape(parameter.shape)
    return names.stored_as(name, places, known)


def _check(model: Any, delta: Delta, stored: str, parameter: Tensor, layout: Tensor | None) -> None:
    """Check that the model holds what the base stores.

    Raises:
        ModelError: It does not, or its dtype cannot tell.
    """
    entry = delta.entries[stored]
    if torch.promote_types(parameter.dtype, entry.dtype) != parameter.dtype:
        raise ModelError(
            f"{delta.folder}: {stored} is stored as {entry.dtype}, the model was loaded in {parameter.dtype}, which cannot hold it, so that its "
            "weights cannot be checked. Load it with dtype 'auto', or use temper apply and load the result."
        )
    held = parameter.detach().cpu()
    shape = held.shape if layout is None else layout.shape
    if tuple(shape) != entry.shape:
        raise ModelError(
            f"{delta.folder}: {stored} has shape {list(entry.shape)} there and {list(shape)} in {type(model).__name__}. Load the base it was made "
            f"for ({delta.base})."
        )
    if hash_of((held if layout is None else held.take(layout)).to(entry.dtype)) != entry.before:
        raise ModelError(
            f"{delta.folder}: was made for {delta.base}, whose {stored} is not the model's: it is another model, or was changed already. Load the "
            "base it was made for."
        )
