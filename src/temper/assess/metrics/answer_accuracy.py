"""Accuracy of the final answer, against the column `answer`.

| result | an item counts when |
| --- | --- |
| answer_accuracy | all after the last ``</think>``, or the whole continuation, equals the answer, outer blanks apart |
| answer_accuracy.lenient | the text right after the first ``</think>`` starts with the answer |
| answer_accuracy.wrong | there is an answer and it is not the right one (strictly) |
| answer_accuracy.empty | there is no answer at all |

Correct, wrong and empty add up to 1. A large lenient share beside a small strict one means that the model knows the answer and does
not stop: a broken end, not a lost fact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final, Literal

from temper.assess.measure import FORGOTTEN, Answers, Better, Measure, knowledge_better, per_item
from temper.assess.metrics.thoughts import lenient_answer_is, strict_answer

__all__ = ["AnswerAccuracy", "reading"]

_PARTS: Final = ("", ".lenient", ".wrong", ".empty")


def reading(prompt: str, continuation: str, answer: str) -> tuple[float, float, float, float]:
    """Return 0 or 1 for: strictly right, leniently right, wrong, empty."""
    given = strict_answer(continuation)
    right = given == answer.strip()
    return (
        float(right),
        float(lenient_answer_is(prompt, continuation, answer.strip())),
        float(bool(given) and not right),
        float(not given and not right),
    )


def _better(part: str, role: str) -> Better:
    if part in ("", ".lenient"):
        return knowledge_better(role)
    return "gold" if role in (*FORGOTTEN, "holdout") else "lower"


class AnswerAccuracy:
    """Shares over the items of a role that have an answer column."""

    name: ClassVar[str] = "answer_accuracy"
    needs: ClassVar[Literal["records", "generations"]] = "generations"

    def compute(self, answers: Mapping[str, Answers]) -> list[Measure]:
        """Return four measures for each role with answers."""
        measures: list[Measure] = []
        for role, given in answers.items():
            found: list[tuple[float, ...] | str] = []
            for item, text in zip(given.items, given.generations, strict=True):
                answer = item.row.get("answer")
                if not isinstance(answer, str):
                    found.append("it has no answer column")
                elif text is None:
                    found.append("it has no prompt")
                else:
                    found.append(reading(item.prompt, text, answer))
            if all(isinstance(entry, str) for entry in found):
                continue
            for place, part in enumerate(_PARTS):
                values: list[float | str | None] = [entry if isinstance(entry, str) else entry[place] for entry in found]
                measures.append(per_item(self.name + part, role, _better(part, role), values))
        return measures
