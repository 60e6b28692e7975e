"""Numbers as people read them: shares in per cent, small ones not rounded to nothing, absent ones never as 0."""

from __future__ import annotations

from typing import Final, Literal

__all__ = ["STATUS_TEXT", "Unit", "compact", "figure", "interval", "percent", "seconds"]

Unit = Literal["share", "score", "ratio"]

STATUS_TEXT: Final = {
    "no_gold": "no gold model was given",
    "no_original": "no original model was given",
    "no_contrast": "original and gold do not differ enough to measure a way between them",
    "too_few_items": "too few items",
    "degenerate": "the number is degenerate",
    "skipped": "this was skipped",
    "failed": "this failed while it was computed",
    "absent": "this was not measured",
}
"""Why a number is not there, in words, for results that give no reason of their own."""


def percent(value: float) -> str:
    r"""Return a share as per cent; one decimal where whole per cents would hide the difference from none or all.

    Example:
        >>> percent(0.364), percent(0.004), percent(1.0)
        ('36\xa0%', '0.4\xa0%', '100\xa0%')
    """
    scaled = 100 * value
    near_an_end = 0 < abs(scaled) < 1 or 99 < scaled < 100
    return f"{scaled:.1f}\u00a0%" if near_an_end else f"{scaled:.0f}\u00a0%"


def figure(value: float, unit: Unit) -> str:
    """Return a value in its unit: shares in per cent, scores with two decimals, ratios in per cent."""
    if unit == "score":
        return f"{value:.3f}" if 0 < abs(value) < 0.005 else f"{value:.2f}"
    return percent(value)


def interval(low: float, high: float, unit: Unit) -> str:
    """Return an interval, the sign of its unit given once."""
    if unit == "score":
        return f"{figure(low, unit)} to {figure(high, unit)}"
    return f"{percent(low).removesuffix(chr(0xA0) + '%')} to {percent(high)}"


def seconds(value: float) -> str:
    """Return a time: seconds up to two minutes, then minutes, then hours."""
    if value < 120:
        return f"{value:.1f}\u00a0s" if value < 10 else f"{value:.0f}\u00a0s"
    return f"{value / 60:.0f}\u00a0min" if value < 7200 else f"{value / 3600:.1f}\u00a0h"


def compact(value: int) -> str:
    """Return a count with thousands set apart, from a hundred thousand on in millions."""
    if value >= 100_000:
        return f"{value / 1e6:.2f}\u00a0M" if value < 1e9 else f"{value / 1e9:.2f}\u00a0G"
    return f"{value:,}".replace(",", "\u202f")
