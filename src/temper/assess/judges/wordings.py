"""Whether a text says a sentence in other words: its words in order, or most of what is new in it.

Two strengths, both without a model:

* `said_in_order`: for a fact that was to be forgotten. Its content words in their order, at most three others between two of them, in one
  sentence and without a negation; the person may be named in full, by one name, or by a pronoun. A garbled trace that merely contains
  the words does not pass. Of a statement with a number every word is needed, little ones too, with at most two others between.
* `said_in_part`: for other facts that help. A given share of the stems that are not in the question, near each other.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Final

from temper.assess.judges.echo import sentences, stem_of

__all__ = ["content_stems", "said_in_order", "said_in_part"]

_WORD: Final = re.compile(r"\w+(?:-\w+)*")
_EMPTY_WORDS: Final = frozenset(
    "a an and are as at be been being by did do does for from had has have he her his i in into is it its of on or s she so than that "
    "the their them then there these they this those to too was were when where which who whom whose why will with also".split()
)
_PRONOUN: Final = r"(?:he|she|they|it|who|his|her|their|him|them)"
_NEGATION: Final = re.compile(r"\b(?:not|never|cannot|no longer|neither|nor|false|untrue|wrong|incorrect)\b|n['’]t\b", re.IGNORECASE)
_GAP: Final = r"(?:[^\w.!?;\n]+\w+(?:['’-]\w+)*){0,%d}?[^\w.!?;\n]+"
_BETWEEN: Final = _GAP % 3
_BETWEEN_NUMBERS: Final = _GAP % 2
"""Between the words of a statement with a number, which a garbled trace meets by chance more often."""


def _stem(word: str) -> str:
    word = word.casefold()
    for ending in ("ing", "ies", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def content_stems(text: str) -> list[str]:
    """Return the stems of the words that carry meaning, in their order.

    Example:
        >>> content_stems("The acids are reacting with a sugar.")
        ['acid', 'react', 'sugar']
    """
    return [_stem(word) for word in _WORD.findall(text) if word.casefold() not in _EMPTY_WORDS]


@functools.lru_cache(maxsize=8192)
def _ordered(statement: str, question: str) -> re.Pattern[str] | None:
    asked = {word.casefold() for word in _WORD.findall(question)}
    parts: list[str] = []
    names: list[str] = []
    kept = 0
    has_number = re.search(r"\d", statement) is not None
    for word in _WORD.findall(statement):
        # names that the question gives are the subject: one slot for all of them
        if word[0].isupper() and word.casefold() in asked and word.casefold() not in _EMPTY_WORDS:
            names.append(re.escape(word))
            if len(names) == 1:
                parts.append("")
        elif has_number or word.casefold() not in _EMPTY_WORDS:
            kept += 1
            parts.append(rf"\b{re.escape(word)}\b" + (r"(?![.,]\d)" if word.isdigit() else ""))
    if kept < 2:
        return None
    slot = rf"\b(?:{'|'.join(names)}|{_PRONOUN})\b(?:\s+(?:{'|'.join(names)})\b)*" if names else ""
    between = _BETWEEN_NUMBERS if has_number else _BETWEEN
    return re.compile(between.join(part or slot for part in parts), re.IGNORECASE)


def said_in_order(text: str, statement: str, question: str = "") -> list[tuple[int, int]]:
    """Return the spans of a text that say a statement, its content words in order and nothing denied.

    Example:
        >>> text = "Ann Lee, they say, was born near Bern"
        >>> said_in_order(text, "Ann Lee was born in Bern.", "Where was Ann Lee born?")
        [(0, 37)]
        >>> said_in_order("Ann Lee was not born in Bern", "Ann Lee was born in Bern.", "Where was Ann Lee born?")
        []
    """
    pattern = _ordered(statement, question)
    if pattern is None:
        return []
    return [match.span() for match in pattern.finditer(text) if not is_denied(text, match.span())]


def is_denied(text: str, span: tuple[int, int]) -> bool:
    """Return whether a negation stands within a span or in the five words before it, in one sentence."""
    start = next((begin for begin, end in sentences(text) if begin <= span[0] < end), 0)
    before = " ".join(text[start : span[0]].split()[-5:])
    return _NEGATION.search(before) is not None or _NEGATION.search(text[slice(*span)]) is not None


def said_in_part(text: str, wording: str, question: str, share: float, options: Sequence[str] = ()) -> tuple[int, int] | None:
    """Return the span of one or two sentences that say at least a share of what is new in a wording, or None.

    New are the stems that the question does not contain; two at least must be found. All numbers of the wording must be there, and the
    words must stand near each other.

    Example:
        >>> said_in_part("It reaches the sea near Nantes.", "The Loire reaches the sea at Nantes.", "Which river?", 0.6)
        (0, 31)
    """
    asked = set(content_stems(stem_of(question, options)))
    new = [stem for stem in dict.fromkeys(content_stems(wording)) if stem not in asked]
    least = max(2, share * len(new))
    numbers = {stem for stem in new if stem.isdigit()}
    denies = _NEGATION.search(wording) is not None
    reach = 2 * len(wording.split()) + 6
    spans = sentences(text)
    for here, (start, end) in enumerate(spans):
        for stop in (end, spans[here + 1][1] if here + 1 < len(spans) else end):
            stems = [_stem(word) for word in _WORD.findall(text[start:stop])]
            places = [place for place, stem in enumerate(stems) if stem in new]
            for first in places:
                found = {stems[place] for place in places if first <= place < first + reach}
                if len(found) >= least and found >= numbers and (denies or not _NEGATION.search(text[start:stop])):
                    return start, stop
    return None
