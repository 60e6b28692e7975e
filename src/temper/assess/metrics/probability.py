"""Probability of the reference answer, normalised by its length.

    exp((1/T) sum_t log p(y_t | x, y_<t))      the end token counts

1: every token is certain. It is the geometric mean of the token probabilities, so answers of different length compare.

Source: Maini et al., TOFU (2024), "Probability".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from temper.assess.measure import Answers, Measure
from temper.assess.metrics.likelihood import by_role
from temper.assess.records import Record

__all__ = ["Probability", "probability"]


def probability(record: Record) -> float | None:
    """Return the geometric mean of the token probabilities, in [0, 1]; None without tokens."""
    return float(np.exp(record.logp.mean(dtype=np.float64))) if len(record.logp) else None


class Probability:
    """Mean over the items of a role."""

    name: ClassVar[str] = "probability"
    needs: ClassVar[Literal["records", "generations"]] = "records"

    def compute(self, answers: Mapping[str, Answers]) -> list[Measure]:
        """Return one measure a role."""
        return by_role(self.name, answers, probability, "no token to score")
