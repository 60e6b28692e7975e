r"""The option that a model names as its final answer, for rows that offer options.

Read is what stands after the last ``</think>``, or the whole continuation where no thought was opened. The first rule that applies decides:

1. a marker, the last one if there are several: "Final Answer: B", "**Final Answer**: (B)", "the answer is B", or an option's text in B's place;
2. a letter at the start: "B", "(B)", "B) Belton", "B.";
3. an option's text at the start, the longest that fits;
4. the only option whose text, or whose letter in brackets, stands anywhere.

| result | share of rows |
| --- | --- |
| final_answer | whose parsed option is the right one; one that cannot be parsed counts as wrong |
| final_answer.unparsed | whose answer names no option, or is not reached because the thought never ends |

Options come from the column `options`, else `choices`; the right one is named by `answer` (text, place or letter). Rows without options are
the matter of `answer_accuracy`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from temper.assess.choices import option_set
from temper.assess.measure import FORGOTTEN, Answers, Better, Measure, Needs, knowledge_better, per_item
from temper.assess.metrics.thoughts import CLOSE, leaves_thought_open, strict_answer

__all__ = ["FinalAnswer", "parsed_option"]

_MARKER: Final = re.compile(
    r"(?:(?i:\bfinal\s+answer\b)[\s*_:=]*(?:(?i:is)\b)?|(?i:\banswer\b)[\s*_]*(?:(?i:is|will be|would be)\b|[:=]))"
    r"[\s*_:]*(?:(?i:option|choice)\s+)?"
)
_LETTER: Final = re.compile(r"[\s*_]*\(?([A-Z])(?:\)|(?=[\s*_.:,;!]*$)|(?=[*_.:,;]|\s*\n))")
_LOOSE: Final = re.compile(r"[\s*_]*\(?([B-HJ-Z])\b")
"""Behind a marker a letter may be followed by a word, "the answer is B because", unless it is a word itself."""
_BRACKETED: Final = re.compile(r"\(([A-Z])\)")
_NO_OPTIONS: Final = "it has no options"


def parsed_option(text: str, options: Sequence[str]) -> int | None:
    """Return the place of the option that an answer names, or None.

    Args:
        text: The answer, without the thought.
        options: The options' texts; letters count from A.

    Example:
        >>> parsed_option("So the **Final Answer**: B", ["Bern", "Rome"])
        1
        >>> parsed_option(" Bern.", ["Bern", "Rome"])
        0
        >>> parsed_option("either Bern or Rome", ["Bern", "Rome"])
    """
    for marker in reversed(list(_MARKER.finditer(text))):
        place = _at_start(text[marker.end() :], options, behind_marker=True)
        if place is not None:
            return place
    place = _at_start(text, options)
    if place is not None:
        return place
    named = {number for number, option in enumerate(options) if not _is_letter(option) and _as_words(option).search(text)}
    named |= {place for letter in _BRACKETED.findall(text) if (place := ord(letter) - ord("A")) < len(options)}
    return named.pop() if len(named) == 1 else None


def _is_letter(option: str) -> bool:
    return re.fullmatch(r"\s*[A-Z]\s*", option) is not None


def _as_words(option: str) -> re.Pattern[str]:
    words = r"\s+".join(re.escape(word) for word in option.rstrip(". ").split())
    return re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)


def _at_start(text: str, options: Sequence[str], *, behind_marker: bool = False) -> int | None:
    """Return the option whose text or letter a text begins with."""
    rest = re.sub(r"^[\s*_(\"'`]+", "", text)
    for number in sorted(range(len(options)), key=lambda number: -len(options[number])):
        if not _is_letter(options[number]) and _as_words(options[number]).match(rest):
            return number
    letter = _LETTER.match(text) or (_LOOSE.match(text) if behind_marker else None)
    if letter is None:
        return None
    stripped = [option.strip() for option in options]
    if letter[1] in stripped:  # the options are letters themselves
        return stripped.index(letter[1])
    place = ord(letter[1]) - ord("A")
    return place if place < len(options) else None


def _better(part: str, role: str) -> Better:
    if not part:
        return knowledge_better(role)
    return "gold" if role in (*FORGOTTEN, "holdout") else "lower"


class FinalAnswer:
    """Shares over the rows of a role that offer options."""

    name: ClassVar[str] = "final_answer"
    needs: ClassVar[Needs] = "generations"

    def compute(self, answers: Mapping[str, Answers]) -> list[Measure]:
        """Return two measures for each role with options."""
        measures: list[Measure] = []
        for role, given in answers.items():
            found: list[tuple[float, float] | str] = []
            for item, text in zip(given.items, given.generations, strict=True):
                offered = option_set(item, f"evaluate.data.{role}")
                if offered is None:
                    found.append(_NO_OPTIONS)
                elif text is None:
                    found.append("it has no prompt")
                else:
                    is_open = CLOSE not in text and leaves_thought_open(item.prompt + text)
                    place = None if is_open else parsed_option(strict_answer(text), offered.texts)
                    found.append((float(place == offered.right), float(place is None)))
            if all(entry == _NO_OPTIONS for entry in found):
                continue
            for number, part in enumerate(("", ".unparsed")):
                values: list[float | str | None] = [entry if isinstance(entry, str) else entry[number] for entry in found]
                measures.append(per_item(self.name + part, role, _better(part, role), values))
        return measures
