"""Where a task vector comes from: a whole model, a delta, the factors of an adapter. Each fills τ = θ_t − θ_init of one tensor.

| source | τ |
| --- | --- |
| `WholeModel` | the tensor less the base's; entries of equal bits are 0, also where they are not finite |
| `SparseDelta` | the new entries less the base's at their places, 0 elsewhere |
| `temper.merge.adapters.Adapter` | scaling · B A |

`value` gives θ_t itself in the dtype of the base: what a single model is merged to.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from temper.errors import ModelError
from temper.merge.method import pieces
from temper.merge.stores import TensorStore, whole
from temper.models.delta import Delta
from temper.models.sparse import differing
from temper.models.writeback import StoredModel

__all__ = ["Source", "SparseDelta", "WholeModel", "not_finite"]


class Source(Protocol):
    """What changed in one model.

    Attributes:
        label: What it is called in messages.
        form: `model`, `delta` or `adapter`.
        key: What tells it apart wherever it lies: a hash of its content, unless it was given.
        hash: A hash of its content.
    """

    label: str
    form: str
    key: str
    hash: str

    def fill(self, name: str, base: TensorStore, row: Tensor) -> bool:
        """Fill a flat row with τ of a tensor, or return False and leave it: nothing of it changed."""
        ...

    def value(self, name: str, base: TensorStore) -> Tensor:
        """Return the tensor as this model has it, in the base's dtype and shape."""
        ...


def not_finite(label: str, name: str, change: Tensor) -> ModelError:
    """Return the error that names a tensor whose change has entries that are no numbers."""
    count = int((~torch.isfinite(change)).sum())
    return ModelError(
        f"{label}: {name} has {count} entries that are NaN or infinite in its change from the base. Look at how this model was trained; it "
        "cannot be merged."
    )


class WholeModel:
    """A model whose every tensor is there.

    Args:
        store: Its tensors.
        found_as: Names of the base to names in the store.
        hash_: A hash of its content.
        key: What tells it apart; None: its hash.
    """

    form = "model"

    def __init__(self, store: TensorStore, found_as: dict[str, str], hash_: str, key: str | None = None) -> None:
        self.label, self.hash, self.key = store.label, hash_, key or hash_
        self._store, self._found_as = store, found_as

    def fill(self, name: str, base: TensorStore, row: Tensor) -> bool:
        """Fill a row with τ; see `Source`.

        Raises:
            ModelError: A change is NaN or infinite.
        """
        own, changed, filled = self._found_as[name], False, 0
        for start, stop in pieces(row.numel()):
            before, after = base.read(name, start, stop), self._store.read(own, start, stop)
            differs = differing(before, after)
            if not bool(differs.numpy().any()):
                continue
            changed = True
            row[filled:start].zero_()
            part, filled = row[start:stop], stop
            torch.sub(after.to(row.dtype), before.to(row.dtype), out=part)
            if not bool(torch.isfinite(part.sum())):
                part.masked_fill_(~differs, 0.0)
                if not bool(torch.isfinite(part).all()):
                    raise not_finite(self.label, name, part)
        if changed:
            row[filled:].zero_()
        return changed

    def value(self, name: str, base: TensorStore) -> Tensor:
        """Return the tensor."""
        return whole(self._store, self._found_as[name])


class SparseDelta:
    """A delta of the exact base.

    Args:
        delta: What was read.
        base: The checkpoint it belongs to.
        hash_: A hash of its content.
        key: What tells it apart; None: its hash.

    Raises:
        ModelError: It holds a tensor that the base does not store in this shape and dtype.
    """

    form = "delta"

    def __init__(self, delta: Delta, base: StoredModel, hash_: str, key: str | None = None) -> None:
        self.label, self.hash, self.key = str(delta.folder), hash_, key or hash_
        self._delta, self._base = delta, base
        self._of: dict[str, str] = {}  # schema 1: stored tensor to parameter
        for parameter in delta.parameters:
            for target in base.targets(parameter):
                self._of |= dict.fromkeys(base.parts[target], parameter)
        for name, entry in delta.entries.items():
            place = base.checkpoint.place_of(name) if name in base.checkpoint.file_of else None
            if place is None or place.shape != entry.shape or place.dtype != entry.dtype:
                raise ModelError(
                    f"{delta.folder}: {base.name} stores no {name} of {entry.dtype} {list(entry.shape)}. The delta is damaged."
                )

    @property
    def names(self) -> set[str]:
        """Return the stored tensors that it has."""
        return {*self._of, *self._delta.entries}

    def _pieces(self, name: str) -> tuple[Tensor | None, Tensor] | None:
        if name in self._of:
            parameter = self._of[name]
            return None, self._base.stored(parameter, self._delta.parameters[parameter])[name]
        return self._delta.pieces(name) if name in self._delta.entries else None

    def fill(self, name: str, base: TensorStore, row: Tensor) -> bool:
        """Fill a row with τ; see `Source`.

        Raises:
            ModelError: A change is NaN or infinite.
        """
        found = self._pieces(name)
        if found is None:
            return False
        places, values = found
        before = base.read(name, 0, row.numel())
        if places is None:
            values = values.reshape(-1)
            torch.sub(values.to(row.dtype), before.to(row.dtype), out=row)
            row.masked_fill_(~differing(before, values), 0.0)
        else:
            row.zero_()
            row[places] = values.to(row.dtype) - before[places].to(row.dtype)
        if not bool(torch.isfinite(row.sum())) and not bool(torch.isfinite(row).all()):
            raise not_finite(self.label, name, row)
        return True

    def value(self, name: str, base: TensorStore) -> Tensor:
        """Return the base's tensor with the new entries."""
        found, result = self._pieces(name), whole(base, name)
        if found is None:
            return result
        places, values = found
        return values.reshape(result.shape) if places is None else result.clone().put_(places, values)
