"""Utility: what is left of everything that was to be kept, as one number.

    utility = harmonic mean over the kept roles of their answer accuracy (ROUGE-L recall where rows have no answer)
    utility.relative = utility of a model / utility of the original

The harmonic mean is 0 as soon as one part is 0, and the part is named: a model that keeps facts and cannot reason any more has not kept
its use.

Source: Maini et al., TOFU (2024), "Model Utility", with parts that a recipe's data decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from temper.assess.evidence import Result, Which
from temper.assess.intervals import Interval, percentile_interval, resample_counts
from temper.assess.measure import Measure, PerItem

__all__ = ["KEPT", "harmonic_mean", "utility", "utility_parts"]

KEPT: Final = ("retain", "retain_trace", "neighbour", "reasoning", "general")
_FROM: Final = ("answer_accuracy", "rouge.l_recall")


def harmonic_mean(parts_PK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the harmonic mean over the first axis; 0 where a part is 0.

    Example:
        >>> float(harmonic_mean(np.array([1.0, 0.5])))
        0.6666666666666666
    """
    with np.errstate(divide="ignore"):
        return np.asarray(len(parts_PK) / (1.0 / parts_PK).sum(axis=0))  # a part of 0 gives 1/inf


def utility_parts(measures: Sequence[Measure]) -> dict[str, PerItem]:
    """Return for each kept role the measure that stands for it."""
    found = {(m.metric, m.role): m for m in measures if isinstance(m, PerItem) and len(m.values)}
    parts = {}
    for role in KEPT:
        for metric in _FROM:
            if (metric, role) in found:
                parts[role] = found[metric, role]
                break
    return parts


def _missing(measures: Sequence[Measure]) -> list[str]:
    """Return kept roles that were asked and gave nothing that can be scored."""
    asked = {m.role for m in measures if isinstance(m, PerItem) and m.metric in _FROM and m.role in KEPT}
    return sorted(asked - set(utility_parts(measures)))


def _resampled(parts: Mapping[str, PerItem], seed: int, resamples: int) -> NDArray[np.float64]:
    rows = []
    for role, part in parts.items():
        n = len(part.values)
        rows.append(np.concatenate([c_RN @ part.values / n for c_RN in resample_counts(seed, role, n, resamples)]))
    return harmonic_mean(np.stack(rows))


def _value(parts: Mapping[str, PerItem]) -> float:
    return float(harmonic_mean(np.array([part.values.mean() for part in parts.values()])))


def utility(measures: Mapping[Which, Sequence[Measure]], *, seed: int, resamples: int) -> list[Result]:
    """Return `utility` of every model, and `utility.relative` of every model but the original; role `all`.

    Args:
        measures: By model.
        seed: Of the bootstrap.
        resamples: Of the bootstrap; every role is resampled apart, the same for all models.
    """
    results = []
    start = utility_parts(measures.get("original", []))
    for model, found in measures.items():
        parts, missing = utility_parts(found), _missing(found)
        if missing or not parts:
            why = (
                f"nothing could be scored in: {', '.join(missing)}"
                if missing
                else f"evaluate.data has none of: {', '.join(KEPT)}"
            )
            results.append(_absent("utility", model, "failed" if missing else "skipped", why))
            if model != "original":
                results.append(_absent("utility.relative", model, "failed" if missing else "skipped", why))
            continue
        zero = [f"{part.metric} of {role}" for role, part in parts.items() if not part.values.mean()]
        reason = f"0 because of {', '.join(zero)}" if zero else None
        draws_R = _resampled(parts, seed, resamples)
        results.append(_result("utility", model, _value(parts), percentile_interval(draws_R), parts, reason))
        if model == "original":
            continue
        if not start:
            results.append(_absent("utility.relative", model, "no_original", "no original model was scored"))
        elif not (base := _value(start)):
            results.append(_absent("utility.relative", model, "degenerate", "the utility of the original is 0"))
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio_R = draws_R / _resampled(start, seed, resamples)
            results.append(_result("utility.relative", model, _value(parts) / base, percentile_interval(ratio_R), parts, reason))
    return results


def _result(
    metric: str, model: Which, value: float, interval: Interval, parts: Mapping[str, PerItem], reason: str | None
) -> Result:
    low, high = interval or (None, None)
    return Result(
        metric=metric,
        role="all",
        model=model,
        value=value,
        low=low,
        high=high,
        n=sum(len(part.values) for part in parts.values()),
        dropped=sum(sum(part.dropped.values()) for part in parts.values()),
        better="higher",
        reason=reason,
    )


def _absent(metric: str, model: Which, status: str, reason: str) -> Result:
    return Result.model_validate(
        {"metric": metric, "role": "all", "model": model, "value": None, "better": "higher", "status": status, "reason": reason}
    )
