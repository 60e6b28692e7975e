"""Accuracy of the final answer, against the column `answer`.

| result | an item counts when |
| --- | --- |
| answer_accuracy | all after the last ``</think>``, or the whole continuation, equals the answer, outer blanks apart |
| answer_accuracy.lenient | it is right strictly, or the text right after the first ``</think>`` starts with the answer |
| answer_accuracy.wrong | there is an answer and it is not the right one (strictly) |
| answer_accuracy.empty | there is no answer at all |

The answer is a text, or a place or letter among `options` or `choices`. What a place stands for is then written as the row's own reference
answer writes it, the option's text or its letter; a row whose reference answer says more than that is left to `final_answer`, because
under this metric not even the reference would be right.

Correct, wrong and empty add up to 1. A large lenient share beside a small strict one means that the model knows the answer and does
not stop: a broken end, not a lost fact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from temper.assess.choices import NO_ANSWER, option_set, right_answer
from temper.assess.measure import FORGOTTEN, Answers, Better, Measure, knowledge_better, per_item
from temper.assess.metrics.thoughts import lenient_answer_is, strict_answer

if TYPE_CHECKING:
    from temper.data import Item

__all__ = ["AnswerAccuracy", "expected_answer", "reading"]

_PARTS: Final = ("", ".lenient", ".wrong", ".empty")
_OTHERWISE: Final = "its answer is a place, and its reference answer is not that option's text or letter; final_answer reads it"


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


def expected_answer(item: Item, where: str = "evaluate.data") -> tuple[str, str]:
    """Return the answer that counts as right, and "" or in words why there is none.

    Raises:
        DataError: The answer is a place or a letter, and the row's options or choices cannot be read.

    Example:
        >>> from temper.data import Item
        >>> row = {"options": ["Rome", "Bern"], "answer": 1}
        >>> expected_answer(Item("a", (1, 2), (-100, 2), row, "Q <think>", " hm</think> B"))
        ('B', '')
    """
    answer = item.row.get("answer")
    own = answer.strip() if isinstance(answer, str) else ""
    if len(own) > 1:
        return own, ""
    if answer is None or answer == "":
        return "", NO_ANSWER
    shown, found = option_set(item, where), right_answer(item, where)
    forms = [] if shown is None else [shown.texts[shown.right].strip(), chr(ord("A") + shown.right)]
    if not isinstance(found, str):
        forms += [found.answer] if found.right is None else [found.answer, chr(ord("A") + found.right)]
    elif not forms:
        return (own, "") if own else ("", found)
    said = strict_answer(item.response)
    if said in forms:
        return said, ""
    return (own, "") if own else ("", _OTHERWISE)


def _better(part: str, role: str) -> Better:
    if part in ("", ".lenient"):
        return knowledge_better(role)
    return "gold" if role in (*FORGOTTEN, "holdout") else "lower"


class AnswerAccuracy:
    """Shares over the items of a role that have an answer column."""

    name: ClassVar[str] = "answer_accuracy"
    needs: ClassVar[Literal["records", "generations"]] = "generations"
    in_modes: ClassVar[bool] = True

    def compute(self, answers: Mapping[str, Answers]) -> list[Measure]:
        """Return four measures for each role with answers."""
        measures: list[Measure] = []
        for role, given in answers.items():
            found: list[tuple[float, ...] | str] = []
            for item, text in zip(given.items, given.generations, strict=True):
                answer, missing = expected_answer(item, f"evaluate.data.{role}")
                if missing:
                    found.append(missing)
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
