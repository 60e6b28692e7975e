"""How far two judges agree: Cohen's kappa over C1 to C4, with an invalid verdict as a category of its own.

    kappa = (p_o - p_e) / (1 - p_e)
    p_o = share of cases on which they agree;  p_e = sum over categories k of (share of k by the first) * (share of k by the second)

1: they agree always. 0: no more than their habits bring about. Where both use one and the same category throughout, p_e is 1 and kappa is
not defined: it is None, with the reason, and never 1.

Source: Cohen, A Coefficient of Agreement for Nominal Scales (1960). The interval is a percentile bootstrap over cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from temper.assess.intervals import Interval, percentile_interval, resample_counts
from temper.assess.judges.judge import Verdict
from temper.errors import InputError

__all__ = ["CATEGORIES", "Agreement", "agreement", "kappa_of"]

CATEGORIES: Final = ("C1", "C2", "C3", "C4", "INVALID")
"""Rows and columns of the table, in this order."""


def kappa_of(table_RKK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return kappa of each of R tables of counts, NaN where it is not defined.

    Example:
        >>> round(float(kappa_of(np.array([[[20.0, 5.0], [10.0, 15.0]]]))[0]), 3)
        0.4
    """
    share_RKK = table_RKK / table_RKK.sum(axis=(1, 2), keepdims=True)
    agreed_R = np.trace(share_RKK, axis1=1, axis2=2)
    chance_R = (share_RKK.sum(axis=2) * share_RKK.sum(axis=1)).sum(axis=1)
    defined = chance_R < 1.0 - 1e-12
    return np.where(defined, (agreed_R - chance_R) / np.where(defined, 1.0 - chance_R, 1.0), np.nan)


@dataclass(frozen=True, eq=False)
class Agreement:
    """What two judges said of the same cases.

    Attributes:
        table: (5, 5), cases that the first put into a row's category and the second into a column's; see `CATEGORIES`.
        pairs: (n,), for each case its cell in the table, row by row.
    """

    table: NDArray[np.int64]
    pairs: NDArray[np.int64]

    @property
    def n(self) -> int:
        """Return the number of cases."""
        return len(self.pairs)

    @property
    def raw(self) -> float | None:
        """Return the share of cases on which they agree, None without cases."""
        return float(np.trace(self.table) / self.n) if self.n else None

    @property
    def kappa(self) -> float | None:
        """Return Cohen's kappa, None where it is not defined."""
        if not self.n:
            return None
        value = float(kappa_of(self.table[None].astype(np.float64))[0])
        return value if np.isfinite(value) else None

    def interval(self, *, seed: int, key: str, resamples: int) -> Interval:
        """Return the bootstrap interval of kappa; resamples without a kappa are left out, fewer than two cases have none.

        Args:
            seed: Of the run.
            key: Names the cases, e.g. their role.
            resamples: How many.
        """
        if self.n < 2:
            return None
        count = len(CATEGORIES)
        cells_NC = np.eye(count * count, dtype=np.float64)[self.pairs]
        drawn = [c_RN @ cells_NC for c_RN in resample_counts(seed, key, self.n, resamples)]
        return percentile_interval(kappa_of(np.concatenate(drawn).reshape(-1, count, count)))


def agreement(first: Sequence[Verdict], second: Sequence[Verdict]) -> Agreement:
    """Return how two judges agree on the same cases.

    Raises:
        InputError: The lists differ in length.

    Example:
        >>> one = [Verdict("C1"), Verdict("C4"), Verdict("C4"), Verdict(None)]
        >>> two = [Verdict("C1"), Verdict("C4"), Verdict("C2"), Verdict("C1")]
        >>> found = agreement(one, two)
        >>> found.n, found.raw, round(found.kappa, 3)
        (4, 0.5, 0.333)
    """
    if len(first) != len(second):
        raise InputError(f"{len(first)} and {len(second)} verdicts: agreement needs the same cases in the same order")
    places = {name: place for place, name in enumerate(CATEGORIES)}
    rows = np.array([places[verdict.category or "INVALID"] for verdict in first], dtype=np.int64)
    columns = np.array([places[verdict.category or "INVALID"] for verdict in second], dtype=np.int64)
    pairs = rows * len(CATEGORIES) + columns
    table = np.bincount(pairs, minlength=len(CATEGORIES) ** 2).reshape(len(CATEGORIES), -1)
    return Agreement(table.astype(np.int64), pairs)
