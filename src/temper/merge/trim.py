"""Keep the largest entries of a task vector and set the others to zero.

    kept = the first c entries by (|value| descending, place)          c = ⌊kP⌋

P is the size of the tensor, or of all tensors together. |value| is compared by its bits, which are ordered as numbers that are not
negative are, so no entry is sorted: of float32 the upper 16 bits are counted, then the lower 16 of those that share the upper bits where
c ends (`temper.models.histogram`); of float64 the c-th largest is selected.

Source: the TRIM step of Yadav et al., TIES-Merging (2023); the rule for equal values is ours, for the same result everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from temper.merge.method import PIECE
from temper.models.histogram import Histogram, counted, end_of, keys_of

if TYPE_CHECKING:
    from temper.merge.method import MergeMethod, Unit

__all__ = ["Cut", "cut_of", "cuts_within", "prune_largest", "trim", "trimmed"]

_BELOW_ALL, _ABOVE_ALL = -1, 2**63 - 1

Rows = Callable[[], Iterable[tuple[str, Tensor]]]


@dataclass
class Cut:
    """Where a task vector is cut.

    Attributes:
        key: Bits of the |value| of the last entry kept; all above are kept.
        ties: How many of those that are equal to it are still to be kept; None: all.
    """

    key: int
    ties: int | None

    def copy(self) -> Cut:
        """Return one that counts for itself."""
        return Cut(self.key, self.ties)


def _wide_keys(row: Tensor) -> np.ndarray:
    keys: np.ndarray = row.numpy().view(np.int64) & np.int64(0x7FFFFFFFFFFFFFFF)
    return keys


def _pieces_of_keys(row: Tensor) -> Iterator[np.ndarray]:
    if row.dtype == torch.float32:
        yield from keys_of(row)
        return
    for start in range(0, row.numel(), PIECE):
        yield _wide_keys(row[start : start + PIECE])


def cut_of(rows: Rows, count: int, *, all_ties: bool = False) -> Cut:
    """Return where so many entries of the largest |value| end.

    Args:
        rows: Gives names and rows, flat, float32 or float64, in the order in which equal entries are kept; is asked twice. Of float64 rows
            the |value| of all is held at once.
        count: How many to keep, from 1 to the number of entries.
        all_ties: Keep every entry equal to the last one, above the count.

    Raises:
        ModelError: An entry is NaN or infinite.
    """
    upper, wide = Histogram(), []
    for name, row in rows():
        if row.dtype == torch.float64:
            wide.append(_wide_keys(row))
        else:
            upper.add(name, row)
    if wide:
        keys = np.concatenate(wide)
        key = int(np.partition(keys, len(keys) - count)[len(keys) - count])
        ties = count - int(np.count_nonzero(keys > key))
    else:
        pattern, left = end_of(upper.counts, count)
        lower = np.zeros(2**16, np.int64)
        for _, row in rows():
            for piece in keys_of(row):
                within = piece[piece >> 16 == pattern]
                if len(within):
                    lower += counted(within & 0xFFFF, 2**16)
        low, ties = end_of(lower, left)
        key = pattern << 16 | low
    return Cut(key, None if all_ties else ties)


def trim(row: Tensor, cut: Cut) -> None:
    """Set all entries of a row that lie below a cut to zero, in place; what it keeps of equal ones is taken off the cut."""
    values, start = row.numpy(), 0
    for keys in _pieces_of_keys(row):
        kept = keys >= cut.key if cut.ties is None else keys > cut.key
        if cut.ties:
            equal = np.flatnonzero(keys == cut.key)[: cut.ties]
            kept[equal] = True
            cut.ties -= len(equal)
        values[start : start + len(keys)] *= kept
        start += len(keys)


def trimmed(row: Tensor, count: int) -> Tensor:
    """Return a copy of a tensor that keeps its `count` entries of largest |value|; of equal ones those that come first.

    Example:
        >>> trimmed(torch.tensor([1.0, -3.0, 2.0, -2.0]), 2).tolist()
        [0.0, -3.0, 2.0, 0.0]
    """
    flat = row.detach().clone().reshape(-1)
    if count <= 0:
        return torch.zeros_like(row)
    if count < flat.numel():
        trim(flat, cut_of(lambda: [("tensor", flat)], count))
        flat += 0.0  # a product with zero keeps the sign of what it took away
    return flat.reshape(row.shape)


def cuts_within(method: MergeMethod, unit: Unit, *, all_ties: bool = False) -> list[Cut]:
    """Return where every row of a tensor is cut: as was found over the model, else by what the method wants of this tensor."""
    if method.kept_share == 1:
        return [Cut(_BELOW_ALL, 0) for _ in unit.rows]
    if unit.cuts is not None:
        return unit.cuts
    count = method.wanted(unit.entries, unit.name)
    if not count:
        return [Cut(_ABOVE_ALL, 0) for _ in unit.rows]
    return [cut_of(lambda row=row: [(unit.name, row)], count, all_ties=all_ties) for row in unit.rows]  # type: ignore[misc]


def prune_largest(method: MergeMethod, unit: Unit, *, all_ties: bool = False) -> None:
    """Trim every row of a tensor, in place."""
    for row, cut in zip(unit.rows, cuts_within(method, unit, all_ties=all_ties), strict=True):
        if cut.key != _BELOW_ALL:
            trim(row, cut)
