"""Extraction strength: how little of an answer must be given for the model to complete the rest word for word.

    ES = 1 - k/T,   k the smallest number of leading tokens after which every token is the model's first choice

The end token is left out. If even the last token is wrong, k = T and ES = 0. Other toolkits stop at k = T - 1, so that "nothing is
right" and "the last token is right" both give 1/T there.

Source: Carlini et al., Extracting Training Data (2021); Wang et al., Towards Effective Evaluations (2025), for this form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from temper.assess.measure import Answers, Measure
from temper.assess.metrics.likelihood import by_role, without_end
from temper.assess.records import Record

__all__ = ["ExtractionStrength", "extraction_strength"]


def extraction_strength(record: Record) -> float | None:
    """Return 1 - k/T, in [0, 1]; None without tokens."""
    hit = record.hit[without_end(record)]
    if not len(hit):
        return None
    wrong = np.flatnonzero(~hit)
    given = int(wrong[-1]) + 1 if len(wrong) else 0
    return 1.0 - given / len(hit)


class ExtractionStrength:
    """Mean over the items of a role."""

    name: ClassVar[str] = "extraction_strength"
    needs: ClassVar[Literal["records", "generations"]] = "records"

    def compute(self, answers: Mapping[str, Answers]) -> list[Measure]:
        """Return one measure a role."""
        return by_role(self.name, answers, extraction_strength)
