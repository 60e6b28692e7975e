"""Membership inference: can the forget rows (members) be told from rows that were never trained on (role `holdout`)?

Each attack gives an item a score; higher means less likely a member. With A = -(1/T) sum_t log p(y_t):

| result | score | end token |
| --- | --- | --- |
| membership.loss | A | counts |
| membership.zlib | A / bytes of the answer compressed by zlib | counts |
| membership.min_k | -mean of the lowest floor(k T), at least 1, of log p(y_t); k = 0.4 | left out |
| membership.min_k_plus | the same of (log p(y_t) - mu_t) / sqrt(max(var_t, 1e-6)) | left out |

Each result is the AUC, P(score of a holdout item > score of a forget item) + half of the ties: 1 remembered, 0.5 gone, below 0.5
forgotten more than a model that never saw the rows would. `.tpr_at_1` and `.tpr_at_10` are the shares of members found while 1 % and
10 % of the non-members are accused. Members and non-members must be of one kind, or their kinds are what is told apart.

Source: Yeom et al. (2018); Carlini et al. (2021); Shi et al., Min-K% Prob (2024); Zhang et al., Min-K%++ (2024).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from typing import ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from temper.assess.measure import Absent, Answers, Measure, PerItem, TwoSample, per_item
from temper.assess.metrics.likelihood import NO_TOKENS, entries, without_end
from temper.assess.records import Record

__all__ = ["Membership", "loss", "min_k", "min_k_plus", "zlib_ratio"]

_K: Final = 0.4
_RATES: Final = {".tpr_at_1": 0.01, ".tpr_at_10": 0.10}
_TARGET: Final = "forget"
_OTHERS: Final = "holdout"


def loss(record: Record) -> float | None:
    """Return A, the mean of -log p over all tokens; None without tokens."""
    return -float(record.logp.mean(dtype=np.float64)) if len(record.logp) else None


def zlib_ratio(record: Record, text: str) -> float | None:
    """Return A over the number of bytes of the compressed text; None without tokens."""
    mean = loss(record)
    return None if mean is None else mean / len(zlib.compress(text.encode()))


def _mean_of_lowest(values: NDArray[np.float64], share: float) -> float | None:
    if not len(values):
        return None
    count = max(1, math.floor(share * len(values) + 1e-9))
    return float(np.partition(values, count - 1)[:count].mean())


def min_k(record: Record, share: float = _K) -> float | None:
    """Return -mean of the lowest `share` of the token log-probabilities; None without tokens."""
    lowest = _mean_of_lowest(record.logp[without_end(record)].astype(np.float64), share)
    return None if lowest is None else -lowest


def min_k_plus(record: Record, share: float = _K) -> float | None:
    """Return -mean of the lowest `share` of the standardised token log-probabilities; None without tokens."""
    kept = without_end(record)
    logp, mu, var = (column[kept].astype(np.float64) for column in (record.logp, record.mu, record.var))
    lowest = _mean_of_lowest((logp - mu) / np.sqrt(np.maximum(var, 1e-6)), share)
    return None if lowest is None else -lowest


class Membership:
    """AUC and true positive rates of four attacks."""

    name: ClassVar[str] = "membership"
    needs: ClassVar[Literal["records", "generations"]] = "records"

    def compute(self, answers: Mapping[str, Answers]) -> list[Measure]:
        """Return three measures an attack, or why there are none."""
        names = ("loss", "min_k", "min_k_plus", "zlib")
        for role in (_TARGET, _OTHERS):
            if role not in answers:
                reason = f"evaluate.data has no role {role}"
                return [Absent(f"{self.name}.{attack}", _TARGET, "gold", "skipped", reason) for attack in names]
        measures: list[Measure] = []
        for attack in names:
            members, others = (_scores(attack, role, answers[role]) for role in (_TARGET, _OTHERS))
            reasons = {**members.dropped}
            for why, count in others.dropped.items():
                reasons[why] = reasons.get(why, 0) + count
            for suffix, rate in {"": None, **_RATES}.items():
                measures.append(
                    TwoSample(
                        f"{self.name}.{attack}{suffix}",
                        _TARGET,
                        "gold",
                        members.values,
                        others.values,
                        rate,
                        reasons,
                        members.failed + others.failed,
                    )
                )
        return measures


_OF_RECORD: Final[dict[str, Callable[[Record], float | None]]] = {"loss": loss, "min_k": min_k, "min_k_plus": min_k_plus}


def _scores(attack: str, role: str, given: Answers) -> PerItem:
    if attack != "zlib":
        return per_item(attack, role, "gold", entries(given.records, _OF_RECORD[attack], NO_TOKENS))
    values: list[float | str | None] = []
    for item, record in zip(given.items, given.records, strict=True):
        values += entries([record], lambda r, text=item.response: zlib_ratio(r, text), NO_TOKENS)  # type: ignore[misc]
    return per_item(attack, role, "gold", values)
