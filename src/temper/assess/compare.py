"""Differences between runs that were judged on the same items, paired item by item.

    d_i = value of the first run on item i - value of the second;   the number is mean d, its interval a bootstrap over items

Pairing takes out what the items have in common: two runs can differ for certain although their own intervals overlap. Runs on other
items are refused: a difference of two sets of questions says nothing about two models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from temper.assess.intervals import bootstrap_mean
from temper.assess.itemtable import ItemValues, read_values
from temper.errors import DataError, InputError

__all__ = ["Comparison", "check_same_items", "compare"]


@dataclass(frozen=True)
class Comparison:
    """One number of two runs.

    Attributes:
        metric: Name of the number.
        role: Whose rows.
        first: Name of a run's folder.
        second: Of another's.
        difference: Mean over the items of first - second.
        low: Lower end of its 95 % interval; None for one item.
        high: Upper end.
        n: Items that both runs could score.
        dropped: Items that only one of them could score.
    """

    metric: str
    role: str
    first: str
    second: str
    difference: float
    low: float | None
    high: float | None
    n: int
    dropped: int

    @property
    def is_clear(self) -> bool:
        """Return whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def check_same_items(folders: Sequence[Path]) -> None:
    """Check that runs were judged on the same items.

    Raises:
        InputError: Fewer than two runs, or the same one twice.
        DataError: A run has no records, or two runs were judged on different items.
    """
    if len(folders) < 2:
        raise InputError(f"{len(folders)} run given, but a comparison needs at least two")
    given = [folder.resolve() for folder in folders]
    if again := [str(folders[place]) for place, folder in enumerate(given) if folder in given[:place]]:
        raise InputError(f"{', '.join(again)}: given more than once. A run does not differ from itself; name each folder once.")
    values = [read_values(folder / "records.parquet") for folder in folders]
    names = _names(folders)
    for other in range(1, len(folders)):
        _shared_roles(values[0], values[other], names[0], names[other])


def compare(
    folders: Sequence[Path], *, metrics: Sequence[str] | None = None, seed: int = 0, resamples: int = 1000
) -> list[Comparison]:
    """Return the paired differences of every two runs, on every number that both have.

    Args:
        folders: Run folders that were assessed.
        metrics: Names of numbers; all when left out.
        seed: Of the bootstrap.
        resamples: Of the bootstrap.

    Raises:
        InputError: Fewer than two runs, or the same one twice.
        DataError: A run has no records, or two runs were judged on different items.
    """
    check_same_items(folders)
    values = [read_values(folder / "records.parquet") for folder in folders]
    names = _names(folders)
    return [
        row
        for one, other in combinations(range(len(folders)), 2)
        for row in _pair(values[one], values[other], names[one], names[other], metrics, seed, resamples)
    ]


def _names(folders: Sequence[Path]) -> list[str]:
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _shared_roles(one: ItemValues, other: ItemValues, first: str, second: str) -> list[str]:
    """Return the roles that both runs were judged on, after checking that their items are the same."""
    shared = [role for role in one.items if role in other.items]
    differing = [role for role in shared if one.items[role] != other.items[role]]
    if differing or not shared:
        roles = f"their items differ in: {', '.join(differing)}" if differing else "they have no role in common"
        raise DataError(
            f"{first} and {second} were judged on different items ({roles}). Assess both with the same evaluate.data and tokenizer."
        )
    return shared


def _pair(
    one: ItemValues, other: ItemValues, first: str, second: str, metrics: Sequence[str] | None, seed: int, resamples: int
) -> list[Comparison]:
    _shared_roles(one, other, first, second)
    rows = []
    for (metric, role), x_N in one.values.items():
        y_N = other.values.get((metric, role))
        if y_N is None or (metrics is not None and metric not in metrics):
            continue
        both = np.isfinite(x_N) & np.isfinite(y_N)
        if not both.any():
            continue
        difference_n = (x_N - y_N)[both]
        low, high = bootstrap_mean(difference_n, seed=seed, key=role, resamples=resamples) or (None, None)
        alone = int((np.isfinite(x_N) ^ np.isfinite(y_N)).sum())
        rows.append(Comparison(metric, role, first, second, float(difference_n.mean()), low, high, int(both.sum()), alone))
    return rows
