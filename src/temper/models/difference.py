"""How far the weights of one checkpoint are from those of another: what share changed, and by how much, by layer and by kind.

Entries are compared bit for bit, tensor by tensor from the files, in pieces; neither model is loaded. With θ from before and
Δ = θ' − θ over the tensors of a group (all of them, a decoder block, a kind of module)

    share changed     entries whose bits differ / entries
    relative change   ‖Δ‖₂ / ‖θ‖₂

Where some entries were selected to change, it also says how many of them did, and how many of the others.

Checkpoints of two dtypes are compared in the second one's: a run that loads bfloat16 weights in float32 changes none by that, and
one that loads float32 weights in bfloat16 rounds them all, which is not what training changed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from temper.errors import ModelError
from temper.models.kinds import kind_of, layer_of
from temper.models.sparse import differing
from temper.models.writeback import StoredModel

__all__ = ["Difference", "Selected", "Tally", "difference"]

_PIECE: Final = 1 << 22
"""Entries that are worked on at a time: their copies in float64 take 32 MB each."""


@dataclass(frozen=True)
class Selected:
    """Which entries were to change.

    Attributes:
        masks: Parameter to a boolean tensor of its shape, which may be made as it is asked for; of a parameter without one nothing was
            selected. None: every entry of the parameters in `trained` was.
        trained: Parameters that could change at all, whatever the masks say; None: all.
    """

    masks: Mapping[str, Tensor] | None = None
    trained: Collection[str] | None = None

    def of(self, names: Collection[str], shape: torch.Size) -> Tensor:
        """Return the mask of a parameter that is known by one of some names.

        Raises:
            ModelError: It has another shape, or is no mask.
        """
        for name in names:
            if self.trained is not None and name not in self.trained:
                continue
            if self.masks is None:
                return torch.ones((), dtype=torch.bool).expand(shape)
            with contextlib.suppress(KeyError):  # `in` would make a mask only to see whether there is one
                mask = self.masks[name].cpu()
                if mask.shape != shape or mask.dtype != torch.bool:
                    raise ModelError(
                        f"mask of {name}: is {mask.dtype} of shape {list(mask.shape)}, the parameter has the shape {list(shape)}. Give the masks of "
                        "this model."
                    )
                return mask
        return torch.zeros((), dtype=torch.bool).expand(shape)


@dataclass
class Tally:
    """Counts over some tensors.

    Attributes:
        entries: How many there are.
        changed: Those whose bits differ.
        selected: Those that were to change.
        moved: Selected ones that did.
        not_finite: Those that are NaN or infinite afterwards.
        change: ‖Δ‖², without entries that are not finite.
        before: ‖θ‖² from before.
    """

    entries: int = 0
    changed: int = 0
    selected: int = 0
    moved: int = 0
    not_finite: int = 0
    change: float = 0.0
    before: float = 0.0

    def add(self, other: Tally) -> None:
        """Count those of another one too."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def relative_change(self) -> float | None:
        """Return ‖Δ‖ / ‖θ‖; None where weights from before are all zero or some are not numbers afterwards."""
        if self.not_finite or not self.before or not math.isfinite(self.change / self.before):
            return None
        return math.sqrt(self.change / self.before)

    def facts(self, *, has_selection: bool) -> dict[str, Any]:
        """Return it as JSON."""
        said: dict[str, Any] = {
            "parameters": self.entries,
            "changed": self.changed,
            "share_changed": self.changed / self.entries if self.entries else 0.0,
            "relative_change": self.relative_change,
        }
        if self.not_finite:
            said["not_finite"] = self.not_finite
        if has_selection:
            said |= {
                "selected": self.selected,
                "moved": self.moved,
                "share_moved": self.moved / self.selected if self.selected else None,
                "others": self.entries - self.selected,
                "others_moved": self.changed - self.moved,
            }
        return said


@dataclass
class Difference:
    """How far two checkpoints are apart.

    Attributes:
        all: Over all parameters, shared ones once.
        layers: By decoder block, counted from 0; None is what lies outside of them.
        kinds: By what a parameter is called in every block, or its module where it lies in none.
        strays: Parameters of which entries changed that were not selected.
        has_selection: Whether it is known what was to change.
        dtypes: The dtypes that were compared, before and after; several joined by a comma.
    """

    all: Tally = field(default_factory=Tally)
    layers: dict[int | None, Tally] = field(default_factory=dict)
    kinds: dict[str, Tally] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)
    has_selection: bool = False
    dtypes: tuple[str, str] = ("", "")

    def facts(self) -> dict[str, Any]:
        """Return it as JSON: counts and shares of all, then a list by layer and one by kind."""
        of = {"has_selection": self.has_selection}
        order = sorted(self.layers, key=lambda layer: (layer is None, layer or 0))
        return {
            **self.all.facts(**of),
            **({"strays": self.strays} if self.has_selection else {}),
            "dtype": {"before": self.dtypes[0], "after": self.dtypes[1]},
            "layers": [{"layer": layer, **self.layers[layer].facts(**of)} for layer in order],
            "kinds": [{"kind": kind, **tally.facts(**of)} for kind, tally in self.kinds.items()],
        }


def difference(before: StoredModel, after: StoredModel, selected: Selected | None = None) -> Difference:
    """Return how far a checkpoint is from another one of the same model; memory: one tensor of each.

    Args:
        before: From before.
        after: From after; stored in other names, layouts, shards or another dtype as may be.
        selected: Which entries were to change, where that is known.

    Raises:
        ModelError: The two are not of one model, or a mask does not fit it.
    """
    found = Difference(has_selection=selected is not None)
    parameters = dict(before.skeleton.named_parameters(remove_duplicate=False))
    done: set[str] = set()
    dtypes: tuple[set[str], set[str]] = (set(), set())
    for name in parameters:
        names = _names_of(before, name)
        if name in done or not any(known in before.parts for known in names):
            continue
        done.update(names)
        tally = Tally()
        for one, other, mask in _pieces(before, after, names, selected):
            dtypes[0].add(str(one.dtype).removeprefix("torch."))
            dtypes[1].add(str(other.dtype).removeprefix("torch."))
            tally.add(_counted(one, other, mask))
        found.all.add(tally)
        found.layers.setdefault(layer_of(name), Tally()).add(tally)
        found.kinds.setdefault(kind_of(name), Tally()).add(tally)
        if selected is not None and tally.changed > tally.moved:
            found.strays.append(name)
    found.dtypes = (", ".join(sorted(dtypes[0])), ", ".join(sorted(dtypes[1])))
    return found


def _names_of(model: StoredModel, name: str) -> list[str]:
    """Return a parameter and, where it shares its matrix, the other name of it; two that are stored with values of their own are two."""
    twin = model.twins.get(name)
    if twin is None or (name in model.parts and twin in model.parts and twin not in model.targets(name)):
        return [name]
    return [name, twin]


def _pieces(
    before: StoredModel, after: StoredModel, names: list[str], selected: Selected | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Give the stored tensors of a parameter from both checkpoints, in one layout, with the mask where one is known."""
    name = next(name for name in names if name in before.parts)
    other = next((other for other in dict.fromkeys([name, *names, before.twins.get(name, name)]) if other in after.parts), None)
    if other is None:
        raise ModelError(f"{after.name}: lacks {name}, which {before.name} has. Compare two checkpoints of one model.")
    mask = selected.of(names, before.skeleton.get_parameter(name).shape) if selected is not None else None
    stored, there = before.parts[name], after.parts[other]
    if set(stored) == set(there) and len(stored) > 1:
        masks = before.laid_out(name, mask.contiguous()) if mask is not None else {}
        if masks is not None:
            for piece in stored:
                yield *_fit(before.value(piece), after.value(piece), name, before, after), masks.get(piece)
            return
    yield *_fit(before.parameter(name), after.parameter(other), name, before, after), mask


def _fit(one: Tensor, other: Tensor, name: str, before: StoredModel, after: StoredModel) -> tuple[Tensor, Tensor]:
    if one.shape != other.shape:
        raise ModelError(
            f"{name}: has the shape {list(one.shape)} in {before.name} and {list(other.shape)} in {after.name}. Compare two checkpoints of one "
            "model and vocabulary."
        )
    return one, other


def _counted(before: Tensor, after: Tensor, mask: Tensor | None) -> Tally:
    tally = Tally(entries=before.numel())
    one, other = before.reshape(-1), after.reshape(-1)
    flat = mask.reshape(-1) if mask is not None else None
    for start in range(0, before.numel(), _PIECE):
        piece = slice(start, start + _PIECE)
        theta, moved = one[piece].to(other.dtype), other[piece]
        differs = differing(theta, moved)
        tally.before += _squared(theta)
        count = int(differs.sum())
        tally.changed += count
        if flat is not None:
            tally.selected += int(flat[piece].sum())
            tally.moved += int((differs & flat[piece]).sum()) if count else 0
        if count:
            wide = torch.promote_types(theta.dtype, torch.float32)
            change = moved.to(wide) - theta.to(wide)
            finite = torch.isfinite(moved)
            if not bool(finite.all()):
                tally.not_finite += int((~finite).sum())
                change = change[finite]
            tally.change += _squared(change)
    return tally


def _squared(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2
