"""Exact memorisation: the share of tokens that are the model's first choice when the ones before are given.

    EM = (1/T) sum_t 1[argmax p(. | x, y_<t) = y_t]      without the end token

Source: Tirumala et al., Memorization Without Overfitting (2022), eq. 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from temper.assess.measure import Answers, Measure
from temper.assess.metrics.likelihood import by_role, without_end
from temper.assess.records import Record

__all__ = ["ExactMemorization", "exact_memorization"]


def exact_memorization(record: Record) -> float | None:
    """Return the share of right first choices, in [0, 1]; None without tokens."""
    hit = record.hit[without_end(record)]
    return float(hit.mean()) if len(hit) else None


class ExactMemorization:
    """Mean over the items of a role."""

    name: ClassVar[str] = "exact_memorization"
    needs: ClassVar[Literal["records", "generations"]] = "records"

    def compute(self, answers: Mapping[str, Answers]) -> list[Measure]:
        """Return one measure a role."""
        return by_role(self.name, answers, exact_memorization)
