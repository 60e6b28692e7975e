"""Accuracy among choices by likelihood: is the right one what the model would rather say? No text is generated.

    choice_accuracy        share of rows whose largest  sum_t log p(y_t | x, y_<t)  is that of the right choice
    choice_accuracy.norm   the same of that sum / characters of the choice (outer blanks apart), which is fair to long choices

They are `acc` and `acc_norm` of lm-evaluation-harness; on WMDP the first is the published measure of the final answer after unlearning.
Neither sees what the model would say after thinking: that is `final_answer` and `answer_accuracy`. Where k choices share the largest
value and the right one is among them, the row counts 1/k. Chance is the mean of 1 / number of choices, and is stated beside the result.

Which rows offer choices: see `temper.assess.choices`. A role whose rows offer none, or whose right answers think while the wrong ones are
short, has no result.

Source: Li et al., WMDP (2024); lm-evaluation-harness, `acc` and `acc_norm`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from temper.assess.choices import MIXED, NO_CHOICES, TOO_LONG, ChoiceScores, choices_of
from temper.assess.measure import NOT_FINITE, Answers, Measure, Needs, knowledge_better, per_item

__all__ = ["ChoiceAccuracy", "share_of_right"]


def share_of_right(values_K: NDArray[np.float64], right: int) -> float:
    """Return 1 if the right choice alone has the largest value, 1/k if k choices share it, else 0.

    Example:
        >>> share_of_right(np.array([-2.0, -1.0, -1.0]), 1)
        0.5
    """
    largest_K = values_K == values_K.max()
    return float(largest_K[right]) / int(largest_K.sum())


def _values(scores: ChoiceScores) -> tuple[float, float] | str:
    if not np.isfinite(scores.sums).all():
        return NOT_FINITE
    return share_of_right(scores.sums, scores.right), share_of_right(scores.sums / scores.characters, scores.right)


class ChoiceAccuracy:
    """Shares over the rows of a role that offer choices."""

    name: ClassVar[str] = "choice_accuracy"
    needs: ClassVar[Needs] = "choices"

    def compute(self, answers: Mapping[str, Answers]) -> list[Measure]:
        """Return two measures for each role with choices."""
        measures: list[Measure] = []
        for role, given in answers.items():
            found: list[tuple[float, float] | str] = []
            chances = []
            for item, scores in zip(given.items, given.choices or [None] * len(given.items), strict=True):
                offered = choices_of(item, f"evaluate.data.{role}")
                if isinstance(offered, str):
                    found.append(offered)
                elif scores is None:
                    found.append(TOO_LONG)
                else:
                    found.append(_values(scores))
                    chances.append(1 / len(scores.sums))
            if all(entry in (NO_CHOICES, MIXED) for entry in found):
                continue  # nothing to choose from
            note = f"chance is {np.mean(chances):.3g}" if chances else None
            for place, part in enumerate(("", ".norm")):
                values: list[float | str | None] = [entry if isinstance(entry, str) else entry[place] for entry in found]
                measures.append(per_item(self.name + part, role, knowledge_better(role), values, note=note))
        return measures
