"""The distance to gold: how far a model has come from the original to one that was retrained without the forget data.

    gap closed = (m_0 - m_u) / (m_0 - m_g)          0 as the original, 1 as gold, above 1 overshoot, below 0 worse than the start
    absolute gap = |m_u - m_g|

Where original and gold hardly differ, the quotient is noise over noise: below max(0.01, half the wider interval of the two) it is not
formed, and the status says `no_contrast`. Without gold there is no gap: a fixed ideal in its place would be an invention.

Source: Maini et al., TOFU (2024), and the critique of fixed targets in Thudi et al. (2022): only the retrained model says what
"forgotten" looks like.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from temper.assess.evidence import Gap, Result, Status, Which

__all__ = ["FORGOTTEN_ROLES", "LEAST_CONTRAST", "MOST_INVALID", "gap", "gaps"]

FORGOTTEN_ROLES: Final = ("forget", "trace")
"""Roles on which the way from the original to gold is the point."""

LEAST_CONTRAST: Final = 0.01
"""Difference of original and gold below which nothing is compared, however many items there are."""


_USABLE: Final = ("ok", "too_few_items")
_MODELS: Final[tuple[Which, ...]] = ("unlearned", "original", "gold")

MOST_INVALID: Final = 0.05
"""Share of traces without a valid verdict, of any model, above which what a judge says of the others is not compared."""


def _half_width(result: Result) -> float:
    return 0.0 if result.low is None or result.high is None else (result.high - result.low) / 2


def gap(unlearned: Result, original: Result | None, gold: Result | None) -> Gap:
    """Return how far the unlearned model has come on one number.

    Args:
        unlearned: The number of the unlearned model.
        original: The same of the original, None where there is none.
        gold: The same of the retrained model, None where there is none.
    """

    def of(status: Status, reason: str | None, closed: float | None = None, absolute: float | None = None) -> Gap:
        return Gap(
            metric=unlearned.metric, role=unlearned.role, gap_closed=closed, absolute_gap=absolute, status=status, reason=reason
        )

    if unlearned.value is None or not math.isfinite(unlearned.value):
        return of("failed" if unlearned.status == "ok" else unlearned.status, unlearned.reason)
    if unlearned.status not in _USABLE:
        return of(unlearned.status, unlearned.reason)
    if gold is None or gold.value is None or gold.status not in _USABLE:
        return of("no_gold", "no gold model was scored" if gold is None else f"gold has no value: {gold.reason}")
    absolute = abs(unlearned.value - gold.value)
    if original is None or original.value is None or original.status not in _USABLE:
        reason = "no original model was scored" if original is None else f"the original has no value: {original.reason}"
        return of("no_original", reason, None, absolute)
    contrast = original.value - gold.value
    least = max(LEAST_CONTRAST, _half_width(original), _half_width(gold))
    if abs(contrast) < least:
        return of("no_contrast", f"original and gold differ by {abs(contrast):.3g}, less than {least:.3g}", None, absolute)
    few = any(result.status == "too_few_items" for result in (unlearned, original, gold))
    return of(
        "too_few_items" if few else "ok",
        unlearned.reason if few else None,
        (original.value - unlearned.value) / contrast + 0.0,  # never -0.0
        absolute,
    )


def gaps(results: Sequence[Result]) -> list[Gap]:
    """Return the gap of every number of the unlearned model on the roles that were to be forgotten.

    Agreement of judges is a number of the judges and has none. On what is kept, original and gold are meant to agree: their difference is
    chance, and a quotient of it says nothing.
    """
    found = {(result.model, result.metric, result.role): result for result in results}
    formed = []
    for result in results:
        if result.model != "unlearned" or result.role not in FORGOTTEN_ROLES or result.metric.startswith("trace_category.kappa"):
            continue
        if why := _unjudged(result, found):
            formed.append(
                Gap(metric=result.metric, role=result.role, gap_closed=None, absolute_gap=None, status="failed", reason=why)
            )
            continue
        original, gold = (found.get((which, result.metric, result.role)) for which in ("original", "gold"))
        formed.append(gap(result, original, gold))
    return formed


def _unjudged(result: Result, found: Mapping[tuple[Which, str, str], Result]) -> str | None:
    """Return why what a judge says is not compared: it gave no valid verdict on too many traces of a model."""
    judge, _, part = result.metric.partition("@")[0].rpartition(".")
    if not judge.startswith("trace_category") or part == "invalid":
        return None
    for which in _MODELS:
        invalid = found.get((which, result.metric.replace(f"{judge}.{part}", f"{judge}.invalid"), result.role))
        if invalid is not None and invalid.value is not None and invalid.value > MOST_INVALID:
            return f"the judge gave no valid verdict on {invalid.value:.0%} of the traces of the {which} model"
    return None
