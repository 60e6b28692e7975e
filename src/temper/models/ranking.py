"""Which weights have the largest scores: exact budgets and settled ties, without sorting and without a list of positions.

    key(s) = bits of float32 |s|          (of numbers that are not negative, bits are ordered as the numbers are)
    budget = ⌊ρP⌋;  chosen: the first `budget` weights by (key descending, parameter name, place in the tensor)

The key is found half by half: a first pass counts the upper 16 bits, which are the bfloat16 pattern of |s|; a second counts the lower
16 bits of the keys that share the pattern in which the budget ends. That gives the key of the last weight chosen; a third pass counts
how many weights of each tensor have exactly this key, so that every tensor knows how many of its own are taken. Time is that of
reading the scores three times, memory that of two tables of counts, for any number of ratios; counts of shards add up.

What follows from the order: masks of a smaller ratio lie inside those of a larger one; a weight with a score of zero is chosen
only when all others are; neither shards nor threads nor the order of the tensors change a mask. Scores in half precision keep
their values; scores in float64 are ranked after rounding to float32.

Rows of their own and units of several weights are ranked in `temper.models.rowranking` and `temper.models.unitranking`.

Source: the selection of WAGLE (OPTML-Group/WAGLE), which sorts all scores twice.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

from temper.errors import ModelError
from temper.models.choice import Choice, Shards, budget
from temper.models.histogram import ABOVE_ALL, Histogram, counted, end_of, keys_of
from temper.models.rowranking import choose_in_rows
from temper.models.unitranking import choose_units
from temper.models.units import Structure, Units

__all__ = ["Choice", "Histogram", "Scope", "Shards", "Structure", "budget", "choose"]

Scope = Literal["global", "per_tensor", "per_row", "per_module_type"]

_ALONE: Final = Shards(0, 1, lambda counts: counts)


def choose(
    scores: Mapping[str, Tensor],
    ratios: Iterable[float],
    *,
    scope: Scope = "global",
    structure: Structure = "weights",
    kind_of: Callable[[str], str] | None = None,
    units: Sequence[Units] | None = None,
    transposed: Container[str] = frozenset(),
    shards: Shards | None = None,
) -> dict[float, Choice]:
    """Return the choice of each ratio, all from the same passes over the scores.

    Args:
        scores: Parameter name to its scores, of the parameter's shape; |s| ranks. May compute or read a tensor when it is asked
            for it, as long as it gives the same numbers each time; one tensor is held at a time.
        ratios: Shares of the weights, in [0, 1].
        scope: Which weights compete: all, those of one tensor, of one output row of a matrix (a vector is one row), or of all
            tensors of one kind. The share is taken of each group.
        structure: What is chosen: single weights, or `units` of this structure.
        kind_of: Parameter name to its kind; for `per_module_type`.
        units: The units of the model (`temper.models.units.units_of`); of theirs, only tensors that have scores compete.
        transposed: Names of matrices stored as (in, out), whose output rows are columns; for `per_row`.
        shards: Where the tensors are parts of larger ones that lie in several processes; only for single weights, and for
            `per_row` only in whole rows.

    Raises:
        ModelError: A ratio is not in [0, 1]; a score is not finite; scope and structure do not go together; no unit fits.

    Example:
        >>> found = choose({"a": torch.tensor([3.0, -5.0]), "b": torch.tensor([0.0, 3.0])}, [0.25, 0.5])
        >>> found[0.25]["a"].tolist(), found[0.5]["a"].tolist(), found[0.5]["b"].tolist(), found[0.5].selected
        ([False, True], [True, True], [False, False], 2)
    """
    wanted = list(dict.fromkeys(float(ratio) for ratio in ratios))
    for ratio in wanted:
        budget(ratio, 0)
    if scope == "per_module_type" and kind_of is None:
        raise ModelError("scope = 'per_module_type': needs the kind of every parameter (kind_of)")
    if structure != "weights":
        if units is None or shards is not None:
            raise ModelError(
                f"structure = {structure!r}: needs the units of the model and whole tensors. Give units_of(model, {structure!r}) and no shards."
            )
        return choose_units(scores, wanted, units, scope=scope, structure=structure, kind_of=kind_of)
    if scope == "per_row":
        return choose_in_rows(scores, wanted, transposed, shards or _ALONE)
    pools: dict[str, list[str]] = {}
    for name in sorted(scores):
        pool = name if scope == "per_tensor" else kind_of(name) if scope == "per_module_type" and kind_of else ""
        pools.setdefault(pool, []).append(name)
    return _choose_in_pools(scores, wanted, list(pools.values()), shards or _ALONE)


def _choose_in_pools(
    scores: Mapping[str, Tensor], ratios: list[float], pools: list[list[str]], shards: Shards
) -> dict[float, Choice]:
    cuts: dict[float, dict[str, tuple[int, int]]] = {ratio: {} for ratio in ratios}
    counts: dict[float, dict[str, int]] = {ratio: dict.fromkeys(scores, 0) for ratio in ratios}
    competing, selected = 0, dict.fromkeys(ratios, 0)
    for names in pools:
        # a pool of one tensor is read once
        pool = scores if len(names) > 1 else {name: scores[name] for name in names}
        total, ends = _thresholds(pool, names, ratios, shards)
        above_NR, equal_NR = _above_and_equal(pool, names, [key for key, _ in ends])
        before_NR = _before(equal_NR, shards)
        competing += total
        for r, (ratio, (key, ties)) in enumerate(zip(ratios, ends, strict=True)):
            selected[ratio] += budget(ratio, total)
            for n, name in enumerate(names):
                taken = min(max(ties - int(before_NR[n, r]), 0), int(equal_NR[n, r]))
                cuts[ratio][name] = key, taken
                counts[ratio][name] = int(above_NR[n, r]) + taken

    def choice(ratio: float) -> Choice:
        own = cuts[ratio]
        return Choice(ratio, competing, selected[ratio], counts[ratio], lambda name: _mask(scores[name], *own[name]))

    return {ratio: choice(ratio) for ratio in ratios}


def _mask(scores: Tensor, key: int, ties: int) -> Tensor:
    """Return True where a key is above this one, and at the first `ties` that are equal to it."""
    mask, start = np.empty(scores.numel(), dtype=bool), 0
    for keys in keys_of(scores):
        chosen = mask[start : start + len(keys)]
        np.greater(keys, key, out=chosen)
        if ties:
            taken = np.flatnonzero(keys == key)[:ties]
            chosen[taken] = True
            ties -= len(taken)
        start += len(keys)
    return torch.from_numpy(mask).reshape(scores.shape)


def _thresholds(
    scores: Mapping[str, Tensor], names: list[str], ratios: list[float], shards: Shards
) -> tuple[int, list[tuple[int, int]]]:
    """Return how many compete and, for each ratio, the key of the last one chosen and how many with that key are."""
    upper = Histogram()
    for name in names:
        upper.add(name, scores[name])
    counts = shards.add_up(upper.counts)
    total = int(counts.sum())
    ends = [end_of(counts, budget(ratio, total)) for ratio in ratios]
    patterns = sorted({pattern for pattern, left in ends if left})
    lower = np.zeros((len(patterns), 2**16), np.int64)
    for name in names if patterns else ():
        for keys in keys_of(scores[name]):
            high = keys >> 16
            for row, pattern in zip(lower, patterns, strict=True):
                within = keys[high == pattern]
                if len(within):
                    row += counted(within & 0xFFFF, 2**16)
    lower = shards.add_up(lower)
    found = []
    for pattern, left in ends:
        low, ties = end_of(lower[patterns.index(pattern)], left) if left else (0, 0)
        found.append((pattern << 16 | low, ties) if left else (ABOVE_ALL, 0))
    return total, found


def _above_and_equal(scores: Mapping[str, Tensor], names: list[str], keys: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return how many keys of each tensor (N) are above and equal to each of some keys (R), shapes (N, R)."""
    above_NR, equal_NR = np.zeros((2, len(names), len(keys)), np.int64)
    for n, name in enumerate(names):
        for piece in keys_of(scores[name]):
            for r, key in enumerate(keys):
                above_NR[n, r] += np.count_nonzero(piece > key)
                equal_NR[n, r] += np.count_nonzero(piece == key)
    return above_NR, equal_NR


def _before(equal_NR: np.ndarray, shards: Shards) -> np.ndarray:
    """Return how many equal keys come before this process's part of each tensor, shape (N, R)."""
    table_SNR = np.zeros((shards.count, *equal_NR.shape), np.int64)
    table_SNR[shards.index] = equal_NR
    table_SNR = shards.add_up(table_SNR)
    of_tensors_NR = table_SNR.sum(axis=0)
    before: np.ndarray = np.cumsum(of_tensors_NR, axis=0) - of_tensors_NR + table_SNR[: shards.index].sum(axis=0)
    return before
