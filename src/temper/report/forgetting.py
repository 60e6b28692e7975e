"""Where a run stands between the original and gold: how far it forgot, and what that cost.

forgetting = (original - unlearned) / (original - gold) on one number of the forget set: 0 as the original, 1 as gold, above
1 beyond gold. The number is the extraction strength; where the original and gold do not differ by at least 0.05 on it, or
it was not taken, the share of right answers, or of right options. All runs of a report use the same one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from temper.display.numbers import STATUS_TEXT
from temper.report.columns import Column, Columns
from temper.report.sides import span

__all__ = ["CONTRAST", "Position", "measure", "position"]

CONTRAST: Final = 0.05
"""Least difference of original and gold; below it a share of the way between them is mostly noise."""

_CANDIDATES: Final = ("extraction_strength", "answer_accuracy", "choice_accuracy")


@dataclass(frozen=True, slots=True)
class Position:
    """A point of the forgetting-against-utility plane; a coordinate is None where it cannot be known, and why says so."""

    name: str
    utility: float | None
    utility_span: tuple[float, float] | None
    forgetting: float | None
    forgetting_span: tuple[float, float] | None
    why: str | None = None


def measure(models: Columns) -> tuple[str | None, str]:
    """Return the number that forgetting is read from, or None and the reason."""
    if models.gold.facts is None:
        return None, STATUS_TEXT["no_gold"]
    if models.original.facts is None:
        return None, STATUS_TEXT["no_original"]
    for metric in _CANDIDATES:
        original, gold = models.original.known(metric, "forget"), models.gold.known(metric, "forget")
        if original is None or gold is None or original.value is None or gold.value is None:
            continue
        if original.value - gold.value >= CONTRAST:
            return metric, ""
    return None, "original and gold do not differ enough on the forget set to measure a way between them"


def _utility(column: Column, models: Columns) -> tuple[float | None, tuple[float, float] | None]:
    if column.which == "original":
        return 1.0, None
    relative = column.known("utility.relative", "all")
    if relative is not None:
        return relative.value, span(relative)
    own, original = column.known("utility", "all"), models.original.known("utility", "all")
    if own is None or original is None or own.value is None or not original.value:
        return None, None
    ends = span(own)
    return own.value / original.value, (ends[0] / original.value, ends[1] / original.value) if ends else None


def position(column: Column, models: Columns) -> Position:
    """Return where a model stands; the intervals hold original and gold at their measured values."""
    metric, why = measure(models)
    utility, utility_span = _utility(column, models)
    if metric is None:
        return Position(column.name, utility, utility_span, None, None, why)
    start, end = models.original.known(metric, "forget"), models.gold.known(metric, "forget")
    own = column.known(metric, "forget")
    if own is None or own.value is None or start is None or end is None or start.value is None or end.value is None:
        reason = column.result(metric, "forget").reason or f"{metric} on the forget set is not known"
        return Position(column.name, utility, utility_span, None, None, reason)
    origin, way = start.value, start.value - end.value
    ends = span(own)
    forgetting_span = ((origin - ends[1]) / way, (origin - ends[0]) / way) if ends else None
    why_not = None if utility is not None else "utility is not known"
    return Position(column.name, utility, utility_span, (origin - own.value) / way, forgetting_span, why_not)
