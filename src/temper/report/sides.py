"""One number of a run beside the same of the original and gold, and how they compare.

Two values differ where their intervals do not overlap. A value without an interval, or without n, decides nothing. An interval of zero
width at 0 or 1 (all sampled items agreed) is widened to 3/n, the 95 % bound for an event never seen in n draws.
Source of the bound: Hanley and Lippman-Hand 1983, "If nothing goes wrong, is everything all right?".
"""

from __future__ import annotations

from dataclasses import dataclass

from temper.assess.evidence import Result
from temper.display.numbers import figure
from temper.report.columns import Column, Columns
from temper.report.metrics import describe

__all__ = ["Side", "compared", "shown", "side", "span"]


def span(result: Result | None) -> tuple[float, float] | None:
    """Return the interval of a number, zero width at 0 or 1 widened to 3/n; None where it has no interval."""
    if result is None or result.value is None or result.status != "ok" or result.low is None or result.high is None:
        return None
    low, high = result.low, result.high
    if low == high and low in (0.0, 1.0) and result.n > 0:
        slack = min(1.0, 3 / result.n)
        return (0.0, slack) if low == 0.0 else (1.0 - slack, 1.0)
    return low, high


def compared(one: Result | None, other: Result | None) -> int | None:
    """Return -1, 0 or 1 for below, not told apart, above; None where an interval is missing."""
    a, b = span(one), span(other)
    if a is None or b is None:
        return None
    return -1 if a[1] < b[0] else 1 if a[0] > b[1] else 0


def shown(result: Result | None) -> str:
    """Return a number in its unit."""
    if result is None or result.value is None:
        return "not known"
    return figure(result.value, describe(result.metric).unit)


@dataclass(frozen=True, slots=True)
class Side:
    """One number of the run, the original and gold, and how the run compares with both."""

    run: Result | None
    original: Result | None
    gold: Result | None
    to_original: int | None
    to_gold: int | None

    @property
    def others(self) -> str:
        """The same of the original and gold, in brackets' words."""
        named = (("original", self.original), ("gold", self.gold))
        return "; ".join(f"{name} {shown(result)}" for name, result in named if result is not None)


def side(column: Column, models: Columns, metric: str, role: str) -> Side:
    """Return a number of a run with those of the original and gold."""
    run, original, gold = (c.known(metric, role) for c in (column, models.original, models.gold))
    return Side(run, original, gold, compared(run, original), compared(run, gold))
