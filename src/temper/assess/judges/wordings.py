"""Whether a text says a sentence in other words: its words in order, or most of what is new in it.

Two strengths, both without a model:

* `said_in_order`: for a fact that was to be forgotten. Its words in their order, articles and auxiliaries apart, at most three others
  between two of them (six beside the name), in one sentence and without a negation. The person may be named in full, by one name, or by a
  pronoun; no word of the statement comes twice. A garbled trace that merely contains the words does not pass. Of a statement with a
  number every word is needed, with at most two others between.
* `said_in_part`: for other facts that help. A given share of the stems that are not in the question, near each other; in their order where
  they are two, which chance brings together more often.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from temper.assess.judges.echo import sentences, stem_of

__all__ = ["content_stems", "said_in_order", "said_in_part"]

_WORD: Final = re.compile(r"\w+(?:-\w+)*")
_EMPTY_WORDS: Final = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been being by did do does for from had has have he her his i in into is it its of on or s she so than that "
        "the their them then there these they this those to too was were when where which who whom whose why will with also",
    )
)
_OPTIONAL: Final = frozenset(("a", "an", "the", "is", "are", "was", "were", "be", "been", "has", "have", "had", "there"))
_STARTERS: Final = frozenset(
    (
        "so",
        "and",
        "but",
        "the",
        "well",
        "wait",
        "then",
        "thus",
        "hence",
        "because",
        "since",
        "if",
        "when",
        "while",
        "author",
        "writer",
        "yes",
    )
)
"""Words with a capital before a name that are no name, at the start of a sentence."""
_PRONOUN: Final = r"(?:he|she|they|it|who|his|her|their|him|them)"
_NEGATION: Final = re.compile(
    r"\b(?:not|never|cannot|no longer|neither|nor|false|untrue|wrong|incorrect)\b|n['’]t\b", re.IGNORECASE
)
_GAP: Final = r"(?:[^\w.!?;\n]+\w+(?:['’-]\w+)*){0,%d}?[^\w.!?;\n]+"
_BETWEEN: Final = _GAP % 3
_BESIDE_NAME: Final = _GAP % 6
_WITH_NUMBER: Final = _GAP % 2
"""Between the words of a statement with a number, which a garbled trace meets by chance more often."""
_FEW: Final = 3
_DENIAL_REACH: Final = 100
"""Characters that hold five words."""


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
def _ordered(statement: str, question: str) -> tuple[re.Pattern[str], Counter[str]] | None:
    """Return the pattern of a statement's words in order, and how often each may stand in what it matches."""
    asked = {word.casefold() for word in _WORD.findall(question)}
    parts: list[str] = []
    names: list[str] = []
    own: Counter[str] = Counter()
    kept = 0
    has_number = re.search(r"\d", statement) is not None
    for word in _WORD.findall(statement):
        # names that the question gives are the subject: one slot for all of them
        if word[0].isupper() and word.casefold() in asked and word.casefold() not in _EMPTY_WORDS:
            names.append(re.escape(word))
            if len(names) == 1:
                parts.append("")
        elif has_number or word.casefold() not in _OPTIONAL:
            kept += word.casefold() not in _EMPTY_WORDS
            parts.append(rf"\b{re.escape(word)}\b" + (r"(?![.,]\d)" if word.isdigit() else ""))
        else:
            continue
        own[word.casefold()] += 1
    if kept < 2:
        return None
    slot = rf"(?P<who>\b(?:{'|'.join(names)}|{_PRONOUN})\b(?:\s+(?:{'|'.join(names)})\b){{0,4}})" if names else ""
    pattern = parts[0] or slot
    for before, part in itertools.pairwise(parts):
        between = _BETWEEN if before and part else _BESIDE_NAME
        pattern += (_WITH_NUMBER if has_number else between) + (part or slot)
    return re.compile(pattern, re.IGNORECASE), own


def said_in_order(text: str, statement: str, question: str = "") -> list[tuple[int, int]]:
    """Return the spans of a text that say a statement, its words in order and nothing denied.

    Example:
        >>> text = "Ann Lee, they say, was born in Bern"
        >>> said_in_order(text, "Ann Lee was born in Bern.", "Where was Ann Lee born?")
        [(0, 35)]
        >>> said_in_order("Ann Lee was not born in Bern", "Ann Lee was born in Bern.", "Where was Ann Lee born?")
        []
    """
    ordered = _ordered(statement, question)
    if ordered is None:
        return []
    pattern, own = ordered
    spans = []
    place = 0
    while match := pattern.search(text, place):
        words = Counter(word.casefold() for word in _WORD.findall(match[0]))
        # a word of the statement that comes again between its words is garble
        of_it = all(words[word] <= count for word, count in own.items()) and not _names_another(text, match, statement, question)
        if of_it and not is_denied(text, match.span()):
            spans.append(match.span())
            place = match.end()
        else:
            place = match.start() + 1
    return spans


def _names_another(text: str, match: re.Match[str], statement: str, question: str) -> bool:
    """Return whether the name is part of another one: Ann Lee is not Ann Moor, nor Bea Lee."""
    who = match.groupdict().get("who")
    if who is None or re.fullmatch(_PRONOUN, who, re.IGNORECASE):
        return False
    asked = {word.casefold() for word in _WORD.findall(question)}
    names = [word for word in _WORD.findall(statement) if word[0].isupper() and word.casefold() in asked]
    if len(who.split()) >= len([word for word in names if word.casefold() not in _EMPTY_WORDS]):
        return False
    start, end = match.span("who")
    after = re.match(r"\s+([A-Z]\w+)", text[end : end + 40])
    before = re.search(r"([A-Z]\w+)\s+$", text[max(0, start - 40) : start])
    return after is not None or (before is not None and before[1].casefold() not in _STARTERS)


def is_denied(text: str, span: tuple[int, int]) -> bool:
    """Return whether a negation stands within a span or in the five words before it, in one sentence."""
    before = re.split(r"[.!?;]\s|\n", text[max(0, span[0] - _DENIAL_REACH) : span[0]])[-1]
    near = " ".join(before.split()[-5:])
    return _NEGATION.search(near) is not None or _NEGATION.search(text[slice(*span)]) is not None


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
                found = list(dict.fromkeys(stems[place] for place in places if first <= place < first + reach))
                if len(new) < _FEW and found != [stem for stem in new if stem in found]:
                    continue
                if len(found) >= least and numbers.issubset(found) and (denies or not _NEGATION.search(text[start:stop])):
                    return start, stop
    return None
