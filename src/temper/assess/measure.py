"""What metrics are given and what they give back, and how that becomes a result with its interval.

A metric is a class with a `name`, what it `needs`, and `compute`: from the answers of one model, by role, to measures. To add one,
write its file in `temper.assess.metrics` and its line in `temper.registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from temper.assess.evidence import Result, Status, Which
from temper.assess.intervals import Interval, around, auc, bootstrap_auc, bootstrap_tpr, interval_of, tpr_at, wilson

if TYPE_CHECKING:
    from temper.assess.choices import ChoiceScores
    from temper.assess.records import Record
    from temper.data import Item

__all__ = [
    "FORGOTTEN",
    "Absent",
    "Answers",
    "Better",
    "Measure",
    "Metric",
    "Needs",
    "PerItem",
    "TwoSample",
    "Whole",
    "knowledge_better",
    "per_item",
]

Better = Literal["lower", "higher", "gold"]
FORGOTTEN: Final = ("forget", "trace")
"""Roles whose rows the model must not know."""

FEWEST_A_SIDE: Final = 30
"""Members and non-members below which an AUC says little: its interval is then wider than 0.3."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What one model gave on the rows of one role, item by item.

    Attributes:
        items: The rows.
        records: What the record pass gave.
        generations: The greedy continuation, None for a row without a prompt.
        choices: What each choice of a row got, None for a row that offers none; empty where no metric asked for them.
        trace_nll: Mean -log p of the trace in the continuation under the original model, in nats a token; in words why there is none;
            None for a row that is not to think. Empty where there is no original, or no metric asked.
        forced: How many characters each continuation begins with that are not the model's own, under a forced thought; else empty.
    """

    items: Sequence[Item]
    records: Sequence[Record]
    generations: Sequence[str | None]
    choices: Sequence[ChoiceScores | None] = ()
    trace_nll: Sequence[float | str | None] = ()
    forced: Sequence[int] = ()


Needs = Literal["records", "generations", "choices", "original"]
"""What a metric reads of the answers; `original` is the continuation and what the original model makes of it."""


class Metric(Protocol):
    """A pure function of answers. A class with a class method `of(settings)` is built by it, any other without arguments.

    A class with the attribute ``in_modes: ClassVar[bool] = True`` is also asked in decoding modes (`temper.assess.modes`): its numbers are
    about answers, not about the thought, which a mode forces.

    Attributes:
        name: In the registry, in recipes and before the first dot of its results.
        needs: What of the answers it reads.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs]

    def compute(self, answers: Mapping[str, Answers]) -> list[Measure]:
        """Return the measures of one model.

        Args:
            answers: By role.
        """
        ...


def knowledge_better(role: str) -> Better:
    """Return which way is good for a number that grows with what a model knows of a role's rows."""
    if role in FORGOTTEN:
        return "lower"
    return "gold" if role == "holdout" else "higher"


@dataclass(frozen=True, eq=False)
class PerItem:
    """One value an item; the number is their mean.

    Attributes:
        metric: Name of the number.
        role: Whose rows.
        better: Which way is good.
        places: (n,), which of the role's items have a value.
        values: (n,), finite.
        dropped: Items without a value, by reason.
        failed: How many of the dropped had no finite numbers.
        note: What a reader must know beside the number, e.g. the level of chance.
        unknown: How many of the values are 0 only because they are not known, and might be 1; the interval spans both readings.
        is_share: Whether the mean lies between 0 and 1 by its meaning.
    """

    metric: str
    role: str
    better: Better
    places: NDArray[np.int64]
    values: NDArray[np.float64]
    dropped: Mapping[str, int] = field(default_factory=dict)
    failed: int = 0
    note: str | None = None
    unknown: int = 0
    is_share: bool = True

    def result(self, model: Which, *, seed: int, resamples: int) -> Result:
        """Return the mean with its interval; without any value the number is absent and the reason stated."""
        n, dropped = len(self.values), sum(self.dropped.values())
        left_out = [f"{count} of {n + dropped} rows left out: {why}" for why, count in self.dropped.items()]
        if not n:
            reason = "; ".join(left_out) or None
            status: Status = "failed" if self.failed else "skipped"
            return _absent(self, model, status, reason or "no rows", dropped)
        interval = interval_of(self.values, seed=seed, key=self.role, resamples=resamples, is_share=self.is_share)
        low, high = interval or (None, None)
        if self.unknown:
            most = wilson(int(self.values.sum()) + self.unknown, n)
            high = None if high is None or most is None else max(high, most[1])
        reason = "; ".join([*([self.note] if self.note else []), *left_out]) or None
        return Result(
            metric=self.metric,
            role=self.role,
            model=model,
            value=float(self.values.mean()),
            low=low,
            high=high,
            n=n,
            dropped=dropped,
            better=self.better,
            reason=reason,
        )


@dataclass(frozen=True, eq=False)
class TwoSample:
    """A statistic of two sets of scores: how well members are told from non-members; low scores speak for membership.

    Attributes:
        metric: Name of the number.
        role: The members' role.
        better: Which way is good.
        members: (m,), finite.
        others: (o,), finite.
        rate: None for the AUC, else the false positive rate at which the true positive rate is taken.
        dropped: Items without a score, by reason.
        failed: How many of the dropped had no finite numbers.
    """

    metric: str
    role: str
    better: Better
    members: NDArray[np.float64]
    others: NDArray[np.float64]
    rate: float | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    failed: int = 0

    def result(self, model: Which, *, seed: int, resamples: int) -> Result:
        """Return the statistic with its interval, flagged where a side is too small."""
        n, dropped = len(self.members) + len(self.others), sum(self.dropped.values())
        reasons = [f"{count} rows left out: {why}" for why, count in self.dropped.items()]
        if not len(self.members) or not len(self.others):
            return _absent(self, model, "failed" if self.failed else "skipped", "; ".join(reasons) or "no rows", dropped)
        if self.rate is None:
            value = auc(self.members, self.others)
            interval = bootstrap_auc(self.members, self.others, seed=seed, key=self.role, resamples=resamples)
        else:
            value = tpr_at(self.members, self.others, self.rate)
            interval = bootstrap_tpr(self.members, self.others, self.rate, seed=seed, key=self.role, resamples=resamples)
        few = min(len(self.members), len(self.others)) < FEWEST_A_SIDE
        if few:
            reasons.append(f"{len(self.members)} members and {len(self.others)} non-members; {FEWEST_A_SIDE} of each are needed")
        low, high = around(interval, value) or (None, None)
        return Result(
            metric=self.metric,
            role=self.role,
            model=model,
            value=value,
            low=low,
            high=high,
            n=n,
            dropped=dropped,
            better=self.better,
            status="too_few_items" if few else "ok",
            reason="; ".join(reasons) or None,
        )


@dataclass(frozen=True)
class Absent:
    """A number that the data do not allow, and why."""

    metric: str
    role: str
    better: Better
    status: Status
    reason: str

    def result(self, model: Which, *, seed: int, resamples: int) -> Result:
        """Return a result without a value."""
        return _absent(self, model, self.status, self.reason, 0)


@dataclass(frozen=True, eq=False)
class Whole:
    """A number that is no mean over items, with an interval of its own.

    Attributes:
        metric: Name of the number.
        role: Whose rows.
        better: Which way is good.
        n: Items that it rests on.
        value: None where it is not defined for them.
        interval: From the seed and the number of resamples.
        note: What a reader must know beside the number, or why there is none.
    """

    metric: str
    role: str
    better: Better
    n: int
    value: float | None
    interval: Callable[[int, int], Interval]
    note: str | None = None

    def result(self, model: Which, *, seed: int, resamples: int) -> Result:
        """Return the number with its interval; one that is not defined is degenerate, with the reason."""
        if self.value is None:
            return _absent(self, model, "degenerate", self.note or "it is not defined for these rows", 0)
        low, high = around(self.interval(seed, resamples), self.value) or (None, None)
        return Result(
            metric=self.metric,
            role=self.role,
            model=model,
            value=self.value,
            low=low,
            high=high,
            n=self.n,
            better=self.better,
            reason=self.note,
        )


Measure = PerItem | TwoSample | Absent | Whole


def _absent(measure: Measure, model: Which, status: Status, reason: str, dropped: int) -> Result:
    return Result(
        metric=measure.metric,
        role=measure.role,
        model=model,
        value=None,
        dropped=dropped,
        better=measure.better,
        status=status,
        reason=reason,
    )


NOT_FINITE: Final = "the model gave no finite numbers"


def per_item(
    metric: str,
    role: str,
    better: Better,
    values: Sequence[float | str | None],
    places: Sequence[int] | None = None,
    note: str | None = None,
    *,
    is_share: bool = True,
) -> PerItem:
    """Return a measure from one entry an item: its value, or in words why it has none.

    A value that is not finite is left out as failed, never averaged and never 0.

    Args:
        metric: Name of the number.
        role: Whose rows.
        better: Which way is good.
        values: One entry for each item that the metric speaks of.
        places: Which of the role's items those are; all of them when left out.
        note: What a reader must know beside the number.
        is_share: False for counts and other numbers that may leave 0 to 1.
    """
    kept_places: list[int] = []
    kept: list[float] = []
    dropped: dict[str, int] = {}
    failed = 0
    for place, value in zip(range(len(values)) if places is None else places, values, strict=True):
        if isinstance(value, str) or value is None:
            why = value or "nothing to score"
        elif np.isfinite(value):
            kept_places.append(place)
            kept.append(float(value))
            continue
        else:
            why = NOT_FINITE
        failed += why == NOT_FINITE
        dropped[why] = dropped.get(why, 0) + 1
    where, numbers = np.array(kept_places, dtype=np.int64), np.array(kept, dtype=np.float64)
    return PerItem(metric, role, better, where, numbers, dropped, failed, note, is_share=is_share)
