r"""The option that a model names as its final answer, for rows that offer options.

Read is what stands after the last ``</think>``, or the whole continuation where no thought was opened. The first rule that applies decides:

1. a marker, the last one if there are several: "Final Answer: B", "**Final Answer**: (b)", "the answer is B", ``\boxed{B}``, or an option's
   text in B's place; behind a marker, and behind the word "option", a small letter counts too;
2. a letter at the start: "B", "(B)", "B) Belton", "B.", "option B";
3. an option's text at the start, the longest that fits;
4. the only option whose text, or whose letter in brackets, stands anywhere.

What is denied is no answer: "not Bern", "Bern is wrong". The LaTeX around an answer (``\text{}``, ``$``) is passed over.

| result | share of rows |
| --- | --- |
| final_answer | whose parsed option is the right one; one that cannot be parsed counts as wrong |
| final_answer.unparsed | whose answer names no option, or is not reached because the thought never ends |

Options come from the column `options`, else `choices`; the right one is named by `answer` (text, place or letter). Rows without options are
the matter of `answer_accuracy`; where a row has one option only there is nothing to choose. Chance is the mean of 1 / number of options, and
is stated beside the result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from temper.assess.choices import option_set
from temper.assess.measure import FORGOTTEN, Answers, Better, Measure, Needs, knowledge_better, per_item
from temper.assess.metrics.thoughts import CLOSE, leaves_thought_open, strict_answer
from temper.assess.metrics.words import words_pattern

__all__ = ["FinalAnswer", "parsed_option"]

_MARKER: Final = re.compile(
    r"(?:(?i:\bfinal\s+answer\b)[\s*_:=]*(?:(?i:is)\b)?|(?i:\b(?:answer|option|choice)\b)[\s*_]*(?:(?i:is|will be|would be)\b|[:=]))[\s*_:]*"
)
_WRAPPED: Final = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit)\s*\{([^{}]*)\}")
_BOXED: Final = re.compile(r"\\f?boxed\s*\{([^{}]*)\}")
_MATHS: Final = re.compile(r"\$|\\[()\[\]]")
_LETTER: Final = re.compile(r"[\s*_]*\(?([A-Z])(?:\)|(?=[\s*_.:,;!]*$)|(?=[*_.:,;]|\s*\n))")
_MARKED: Final = re.compile(_LETTER.pattern.replace("[A-Z]", "[A-Za-z]"))
_LOOSE: Final = re.compile(r"[\s*_]*\(?([B-HJ-Z])\b")
"""Behind a marker a letter may be followed by a word, "the answer is B because", unless it is a word itself."""
_OPTION: Final = re.compile(
    r"[\s*_(]*(?i:the\s+)?(?i:correct\s+|right\s+)?(?i:option|choice)[\s*_:]*\(?([A-Z](?!\w)|[a-z](?=[)*_.:,;!]|\s*$|\s+(?:is|because|since)\b))"
)
_BRACKETED: Final = re.compile(r"\(([A-Z])\)")
_DENIED_BEFORE: Final = re.compile(
    r"(?:\b(?:not|never|neither|nor|cannot|rather\s+than|instead\s+of|rules?\s+out|exclud(?:e|es|ing))|n['’]t)\b(?:\s+(?!but\b)\w+){0,3}[\s*_(\"']*$",
    re.IGNORECASE,
)
_DENIED_BEHIND: Final = re.compile(
    r"[ \t*_)\"':]*(?:(?:is|was|are|were|can|could|would|does|do|must)\b\s*)(?:(?:\w+ly|also|just|be)\s+)*"
    r"(?:not|never|n['’]t|wrong|incorrect|false|impossible|excluded|ruled\s+out)\b|\s*(?:is|was|are|were|ca|could|would|does|do)n['’]t\b",
    re.IGNORECASE,
)
_NO_OPTIONS: Final = "it has no options"
_ONE_OPTION: Final = "it has one option only"


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
    text = _plain(text)
    for marker in reversed(list(_MARKER.finditer(text))):
        if _denied_before(text, marker.start()):
            continue
        place = _at_start(text, marker.end(), options, behind_marker=True)
        if place is not None:
            return place
    place = _at_start(text, 0, options)
    if place is not None:
        return place
    named = {
        number
        for number, option in enumerate(options)
        if not _is_letter(option)
        and (pattern := _as_words(option))
        and any(not _is_denied(text, m) for m in pattern.finditer(text))
    }
    bracketed = [match for match in _BRACKETED.finditer(text) if not _is_denied(text, match)]
    named |= {place for match in bracketed if (place := ord(match[1]) - ord("A")) < len(options)}
    return named.pop() if len(named) == 1 else None


def _plain(text: str) -> str:
    r"""Return a text without LaTeX: a box becomes a marked answer.

    Example:
        >>> _plain(r"so $\boxed{\text{B}}$")
        'so  Final Answer: B\n'
    """
    text = _MATHS.sub("", _WRAPPED.sub(r"\1", text))
    return _BOXED.sub(r" Final Answer: \1\n", text)


def _denied_before(text: str, place: int) -> bool:
    clause = re.split(r"[.;!?\n]", text[max(0, place - 60) : place])[-1]
    return _DENIED_BEFORE.search(clause) is not None


def _is_denied(text: str, match: re.Match[str]) -> bool:
    """Return whether what was found is said not to be so: "not Bern", "Bern is wrong"."""
    return _denied_before(text, match.start()) or _DENIED_BEHIND.match(text, match.end()) is not None


def _is_letter(option: str) -> bool:
    return re.fullmatch(r"\s*[A-Z]\s*", option) is not None


def _as_words(option: str) -> re.Pattern[str] | None:
    words = words_pattern(option)
    return re.compile(words, re.IGNORECASE) if words else None


def _at_start(text: str, start: int, options: Sequence[str], *, behind_marker: bool = False) -> int | None:
    """Return the option whose text or letter stands at a place of a text and is not denied there."""
    begin = start + len(text[start:]) - len(re.sub(r"^[\s*_(\"'`]+", "", text[start:]))
    for number in sorted(range(len(options)), key=lambda number: -len(options[number])):
        pattern = None if _is_letter(options[number]) else _as_words(options[number])
        match = pattern.match(text, begin) if pattern is not None else None
        if match is not None:
            return None if _is_denied(text, match) else number
    letter = _OPTION.match(text, start)
    if letter is None:
        letter = (_MARKED if behind_marker else _LETTER).match(text, start) or (
            _LOOSE.match(text, start) if behind_marker else None
        )
    if letter is None or _is_denied(text, letter):
        return None
    sign = letter[1].upper()
    stripped = [option.strip() for option in options]
    place = stripped.index(sign) if sign in stripped else ord(sign) - ord("A")  # the options may be letters themselves
    if place >= len(options):
        return None
    named = re.compile(r"[\s*_).:,-]*" + (words_pattern(options[place]) or r"(?!)"), re.IGNORECASE).match(text, letter.end())
    return None if named is not None and _is_denied(text, named) else place


def _better(part: str, role: str) -> Better:
    if not part:
        return knowledge_better(role)
    return "gold" if role in (*FORGOTTEN, "holdout") else "lower"


class FinalAnswer:
    """Shares over the rows of a role that offer options."""

    name: ClassVar[str] = "final_answer"
    needs: ClassVar[Needs] = "generations"
    in_modes: ClassVar[bool] = True

    def compute(self, answers: Mapping[str, Answers]) -> list[Measure]:
        """Return two measures for each role with options."""
        measures: list[Measure] = []
        for role, given in answers.items():
            found: list[tuple[float, float] | str] = []
            chances = []
            for item, text in zip(given.items, given.generations, strict=True):
                offered = option_set(item, f"evaluate.data.{role}")
                if offered is None:
                    found.append(_NO_OPTIONS)
                elif len(offered.texts) < 2:
                    found.append(_ONE_OPTION)
                elif text is None:
                    found.append("it has no prompt")
                else:
                    is_open = CLOSE not in text and leaves_thought_open(item.prompt + text)
                    place = None if is_open else parsed_option(strict_answer(text), offered.texts)
                    chances.append(1 / len(offered.texts))
                    found.append((float(place == offered.right), float(place is None)))
            if all(entry == _NO_OPTIONS for entry in found):
                continue
            note = f"chance is {sum(chances) / len(chances):.3g}" if chances else None
            for number, part in enumerate(("", ".unparsed")):
                values: list[float | str | None] = [entry if isinstance(entry, str) else entry[number] for entry in found]
                measures.append(per_item(self.name + part, role, _better(part, role), values, note=None if part else note))
        return measures
