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
from collections.abc import Sequence
from typing import Final

from temper.assess.evidence import Gap, Result, Status

__all__ = ["FORGOTTEN_ROLES", "LEAST_CONTRAST", "gap", "gaps"]

FORGOTTEN_ROLES: Final = ("forget", "trace")
"""Roles on which the way from the original to gold is the point."""

LEAST_CONTRAST: Final = 0.01
"""Difference of original and gold below which nothing is compared, however many items there are."""


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
    if gold is None or gold.value is None:
        return of("no_gold", "no gold model was scored" if gold is None else f"gold has no value: {gold.reason}")
    absolute = abs(unlearned.value - gold.value)
    if original is None or original.value is None:
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
    return [
        gap(
            result,
            found.get(("original", result.metric, result.role)),
            found.get(("gold", result.metric, result.role)),
        )
        for result in results
        if result.model == "unlearned" and result.role in FORGOTTEN_ROLES and not result.metric.startswith("trace_category.kappa")
    ]
