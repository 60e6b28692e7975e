"""The units with the largest scores: rows, columns, heads or blocks that are chosen whole.

    score of a unit = Σ |s| over its weights, in float64;   taken in the order (score descending, label, number) as long as the next one
                                                           fits into ⌊ρP⌋ whole, P the weights of all units

The first that does not fit ends it, also where a smaller one further down would fit: so the choice of a smaller ratio lies inside
that of a larger one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from temper.errors import ModelError
from temper.models.choice import Choice, budget
from temper.models.units import Lines, Units

__all__ = ["choose_units"]

_AT_ONCE = 2**20
"""Scores that are summed together; a fixed number, so that a sum does not depend on anything else."""


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Units of one label: their sums and their order among those they compete with.

    Attributes:
        units: Which, with the parts that have scores.
        sums: Σ |s| of each.
        size: Weights of one.
    """

    units: Units
    sums: np.ndarray
    size: int


@dataclass(frozen=True, slots=True)
class _Taken:
    """Which lines of a tensor are chosen."""

    dim: int
    lines: np.ndarray
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Return how many weights that are."""
        return int(self.lines.sum()) * (int(np.prod(self.shape, dtype=np.int64)) // max(len(self.lines), 1))

    def mask(self) -> Tensor:
        """Return the mask, a view that repeats one byte a line; clone it before writing to it."""
        lines = torch.from_numpy(self.lines)
        return lines.reshape([-1 if d == self.dim else 1 for d in range(len(self.shape))]).expand(self.shape)


def choose_units(
    scores: Mapping[str, Tensor],
    ratios: list[float],
    units: Sequence[Units],
    *,
    scope: str,
    structure: str,
    kind_of: Callable[[str], str] | None,
) -> dict[float, Choice]:
    """Return the choice of each ratio among units; see `temper.models.ranking.choose`.

    A tensor without a unit does not compete and is not in the choice.

    Raises:
        ModelError: The scope does not go with the structure, a score is not finite, no unit has scores, or a ratio above 0 has
            no room for the first unit.
    """
    whole_matrices = structure in ("rows", "columns")
    if scope == "per_row" or (scope != "global" and not whole_matrices):
        allowed = "'global', 'per_tensor' or 'per_module_type'" if whole_matrices else "'global'"
        raise ModelError(f"scope = {scope!r}: does not go with structure = {structure!r}. Use {allowed}.")
    shapes: dict[str, tuple[int, ...]] = {}
    ranked = []
    for group in units:
        parts = tuple(part for part in group.parts if part.name in scores)
        if parts:
            ranked.append(_ranked(Units(group.label, group.count, parts), scores, shapes))
    if not ranked:
        raise ModelError(f"structure = {structure!r}: none of the {len(units)} groups of units has scores, so none can be chosen")
    pools: dict[str, list[_Ranked]] = {}
    for one in sorted(ranked, key=lambda one: one.units.label):
        label = one.units.label
        pool = label if scope == "per_tensor" else kind_of(label) if scope == "per_module_type" and kind_of else ""
        pools.setdefault(pool, []).append(one)
    competing = sum(one.size * one.units.count for one in ranked)
    return {ratio: _choice(ratio, list(pools.values()), competing, shapes, structure) for ratio in ratios}


def _ranked(units: Units, scores: Mapping[str, Tensor], shapes: dict[str, tuple[int, ...]]) -> _Ranked:
    sums, size = np.zeros(units.count), 0
    for part in units.parts:
        tensor = scores[part.name]
        if part.name in shapes:
            raise ModelError(f"{part.name} belongs to {units.label} and to other units, which cannot compete for it")
        shapes[part.name] = tuple(tensor.shape)
        lines = _line_sums(part, tensor)
        if len(lines) != units.count * part.width:
            raise ModelError(
                f"the scores of {part.name} have the shape {list(tensor.shape)}, which has no {units.count * part.width} lines along dimension "
                f"{part.dim}. Score the model that the units are of."
            )
        sums += lines.reshape(units.count, part.width).sum(axis=1)
        size += tensor.numel() // units.count
    return _Ranked(units, sums, size)


def _pieces(scores: Tensor) -> Iterator[np.ndarray]:
    """Yield rows (r, C) of a tensor seen as a matrix."""
    rows = scores.detach().reshape(len(scores) if scores.dim() else 1, -1)
    step = max(1, _AT_ONCE // max(rows.shape[1], 1))
    for start in range(0, len(rows), step):
        yield np.abs(rows[start : start + step].to("cpu", torch.float32).numpy())


def _line_sums(part: Lines, scores: Tensor) -> np.ndarray:
    """Return Σ |s| of each line, float64."""
    if part.dim == 0:
        parts = [piece.sum(axis=1, dtype=np.float64) for piece in _pieces(scores)]
        sums = np.concatenate(parts) if parts else np.zeros(0)
    else:
        sums = np.zeros(scores.shape[part.dim])
        for piece in _pieces(scores):
            sums += piece.sum(axis=0, dtype=np.float64)
    if not np.isfinite(sums).all():
        raise ModelError(
            f"the scores of {part.name}: some are NaN or infinite, so they cannot be ranked. Score in float32 (model.dtype=float32) and look for "
            "the row whose loss is not finite."
        )
    return sums


def _choice(
    ratio: float, pools: list[list[_Ranked]], competing: int, shapes: Mapping[str, tuple[int, ...]], structure: str
) -> Choice:
    taken: dict[str, _Taken] = {}
    for pool in pools:
        # a stable sort keeps equals in the order of labels and numbers
        order = np.argsort(-np.concatenate([one.sums for one in pool]), kind="stable")
        sizes = np.concatenate([np.full(one.units.count, one.size) for one in pool])
        first_out = int(np.searchsorted(np.cumsum(sizes[order]), budget(ratio, int(sizes.sum())), side="right"))
        chosen = np.zeros(len(order), dtype=bool)
        chosen[order[:first_out]] = True
        ends = np.cumsum([one.units.count for one in pool])
        for one, own in zip(pool, np.split(chosen, ends[:-1]), strict=True):
            for part in one.units.parts:
                taken[part.name] = _Taken(part.dim, np.repeat(own, part.width), shapes[part.name])
    counts = {name: taken[name].count for name in shapes}
    selected = sum(counts.values())
    if ratio and competing and not selected:
        smallest = min((max(pool, key=lambda one: one.sums.max()) for pool in pools), key=lambda one: one.size)
        raise ModelError(
            f"ratio = {ratio}: is {budget(ratio, competing)} of {competing} weights, which has no room for one of the {structure}: the first, of "
            f"{smallest.units.label}, has {smallest.size}. Raise the ratio or choose smaller units."
        )
    return Choice(ratio, competing, selected, counts, lambda name: taken[name].mask())
