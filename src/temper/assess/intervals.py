"""95 % intervals: seeded bootstrap over items, Wilson's for shares whose every value is 0 or 1. No interval leaves out its own value.

Resamples are counts, how often each item is drawn: a mean is then one product of a matrix and a vector, and the same counts
serve every metric and model of a role, so differences between them are paired.

Source: Efron, Bootstrap Methods (1979), percentile form; Wilson (1927). Wilson's interval is used for shares because the bootstrap
of a share of 0 or 1 has no width at all.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from temper.draws import generator

__all__ = [
    "Interval",
    "around",
    "auc",
    "bootstrap_auc",
    "bootstrap_mean",
    "bootstrap_tpr",
    "interval_of",
    "resample_counts",
    "tpr_at",
    "wilson",
]

Interval = tuple[float, float] | None
"""Lower and upper end; None where one item says nothing about the spread."""

Floats = NDArray[np.float64]

_Z: Final = 1.959963984540054
_CHUNK: Final = 100
"""Resamples drawn at a time: bounds memory, and is part of the key of each draw."""


@functools.lru_cache(maxsize=64)
def _chunk(seed: int, key: str, n: int, number: int) -> NDArray[np.float32]:
    drawn = generator(seed, "bootstrap", key, n, number).integers(0, n, size=(_CHUNK, n))
    flat = (drawn + np.arange(_CHUNK)[:, None] * n).ravel()
    return np.bincount(flat, minlength=_CHUNK * n).reshape(_CHUNK, n).astype(np.float32)


def resample_counts(seed: int, key: str, n: int, resamples: int) -> Iterator[NDArray[np.float32]]:
    """Yield how often each of n items stands in each resample, (up to 100, n) at a time.

    Args:
        seed: Of the run.
        key: Names the items, e.g. their role; the same key gives the same counts.
        n: Items.
        resamples: Rows in all.
    """
    for number in range(math.ceil(resamples / _CHUNK)):
        yield _chunk(seed, key, n, number)[: resamples - number * _CHUNK]


def percentile_interval(statistics: ArrayLike) -> Interval:
    """Return the 2.5 and 97.5 percentiles of resampled statistics, or None where none is finite."""
    values = np.asarray(statistics, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def around(interval: Interval, value: float) -> Interval:
    """Return an interval that holds its value: rounding may put an end beyond it, by the last digit.

    Example:
        >>> around((0.30000001, 0.5), 0.3), around(None, 0.3)
        ((0.3, 0.5), None)
    """
    return None if interval is None else (min(interval[0], value), max(interval[1], value))


def bootstrap_mean(values: ArrayLike, *, seed: int, key: str, resamples: int) -> Interval:
    """Return the bootstrap interval of the mean of some items' values; None for fewer than two items."""
    x_N = np.asarray(values, dtype=np.float64)
    if len(x_N) < 2:
        return None
    means = [c_RN @ x_N / len(x_N) for c_RN in resample_counts(seed, key, len(x_N), resamples)]
    return around(percentile_interval(np.concatenate(means)), float(x_N.mean()))


def wilson(successes: int, n: int) -> Interval:
    """Return Wilson's interval of a share; its ends are 0 and 1 exactly where the share is.

    Example:
        >>> [round(end, 4) for end in wilson(0, 10)]
        [0.0, 0.2775]
    """
    if n == 0:
        return None
    share = successes / n
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, min(middle - half, share)) if successes else 0.0, min(
        1.0, max(middle + half, share)
    ) if successes < n else 1.0


def interval_of(values: ArrayLike, *, seed: int, key: str, resamples: int, is_share: bool = True) -> Interval:
    """Return the interval of a mean: Wilson's for a share whose values are all 0 or 1, else the bootstrap's.

    Args:
        values: One an item.
        seed: Of the run.
        key: Names the items.
        resamples: Of the bootstrap.
        is_share: Whether the mean lies between 0 and 1 by its meaning; counts and likelihoods do not, whatever their values happen to be.
    """
    x_N = np.asarray(values, dtype=np.float64)
    if is_share and len(x_N) and np.isin(x_N, (0.0, 1.0)).all():
        return wilson(int(x_N.sum()), len(x_N))
    return bootstrap_mean(x_N, seed=seed, key=key, resamples=resamples)


def auc(members: ArrayLike, others: ArrayLike) -> float:
    """Return P(score of a non-member > score of a member) + half of P(equal).

    1: every member has the lower score, it is remembered. 0.5: nothing is told apart.

    Example:
        >>> auc([1.0, 2.0], [2.0, 3.0])
        0.875
    """
    m, o = np.asarray(members, dtype=np.float64), np.sort(np.asarray(others, dtype=np.float64))
    above = len(o) - np.searchsorted(o, m, side="right")
    ties = np.searchsorted(o, m, side="right") - np.searchsorted(o, m, side="left")
    return float((above + 0.5 * ties).sum() / (len(m) * len(o)))


def tpr_at(members: ArrayLike, others: ArrayLike, rate: float) -> float:
    """Return the share of members called members by the widest threshold that calls at most `rate` of the others so.

    Example:
        >>> tpr_at([0.0, 1.0, 5.0], [2.0, 3.0, 4.0, 6.0], 0.25)
        0.6666666666666666
    """
    m, o = np.asarray(members, dtype=np.float64), np.sort(np.asarray(others, dtype=np.float64))
    allowed = math.floor(rate * len(o) + 1e-9)
    if allowed >= len(o):
        return 1.0
    return float((m < o[allowed]).mean())


def _two_sample(
    members: ArrayLike, others: ArrayLike, statistic: Callable[..., Floats], seed: int, key: str, resamples: int
) -> Interval:
    """Resample both sides apart; the statistic gets sorted scores and, for each resample, how often each is drawn."""
    m, o = np.sort(np.asarray(members, dtype=np.float64)), np.sort(np.asarray(others, dtype=np.float64))
    if len(m) < 2 or len(o) < 2:
        return None
    draws = zip(
        resample_counts(seed, f"{key}/members", len(m), resamples),
        resample_counts(seed, f"{key}/others", len(o), resamples),
        strict=True,
    )
    return percentile_interval(np.concatenate([statistic(m, o, w_RM, w_RO) for w_RM, w_RO in draws]))


def _cumulated(counts_RN: NDArray[np.float32]) -> Floats:
    """Return running sums along the items with a leading 0, (R, N + 1)."""
    return np.concatenate([np.zeros((len(counts_RN), 1)), np.cumsum(counts_RN, axis=1, dtype=np.float64)], axis=1)


def bootstrap_auc(members: ArrayLike, others: ArrayLike, *, seed: int, key: str, resamples: int) -> Interval:
    """Return the interval of `auc`, members and others resampled apart; None for fewer than two on a side."""

    def statistic(m: Floats, o: Floats, w_RM: NDArray[np.float32], w_RO: NDArray[np.float32]) -> Floats:
        below_RN = _cumulated(w_RO)
        up_to, under = below_RN[:, np.searchsorted(o, m, side="right")], below_RN[:, np.searchsorted(o, m, side="left")]
        wins_RM = len(o) - up_to + 0.5 * (up_to - under)
        return np.asarray((w_RM * wins_RM).sum(axis=1) / (len(m) * len(o)))

    return _two_sample(members, others, statistic, seed, key, resamples)


def bootstrap_tpr(members: ArrayLike, others: ArrayLike, rate: float, *, seed: int, key: str, resamples: int) -> Interval:
    """Return the interval of `tpr_at`; None for fewer than two on a side."""

    def statistic(m: Floats, o: Floats, w_RM: NDArray[np.float32], w_RO: NDArray[np.float32]) -> Floats:
        allowed = math.floor(rate * len(o) + 1e-9)
        if allowed >= len(o):
            return np.ones(len(w_RO))
        place_R = (_cumulated(w_RO)[:, 1:] > allowed).argmax(axis=1)  # the drawn score number `allowed`, counted from 0
        called_R = np.searchsorted(m, o[place_R], side="left")
        return np.asarray(np.take_along_axis(_cumulated(w_RM), called_R[:, None], axis=1)[:, 0] / len(m))

    return _two_sample(members, others, statistic, seed, key, resamples)
