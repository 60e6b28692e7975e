"""What a trace repeats of its question, blanked out: a model is not to be judged by the prompt's own words.

Four things are taken for an echo:

| what | example, for the question "Which city is the capital? A) Rome B) Bern C) Lima" |
| --- | --- |
| a sentence of the question, wherever it stands | "The question: which city is the capital?" |
| a sentence of the trace made of runs of four or more words of the question | "... is the capital." |
| two or more options in a row that carry their letters | "A) Rome B) Bern" |
| a list of all options, with nothing but commas, "and", "or" and letters between them | "Rome, Bern and Lima" |

One option alone is never an echo: "B) Bern" at the end of a trace is an answer. Blanks keep the length, so character spans stay right.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Final

from temper.assess.metrics.words import words_pattern

__all__ = ["sentences", "stem_of", "text_pattern", "without_echo"]

_WORD: Final = re.compile(r"\w+(?:['’]\w+)?")
_SENTENCE_END: Final = re.compile(r"[.!?;]+(?=[\s\"')*\]]|$)|\n+")
_BETWEEN: Final = re.compile(r"[\s,;.*_|/\"'-]*(?:(?:and|or|&)\b)?[\s\"'*]*(?:the\s+)?", re.IGNORECASE)
_LEAST_RUN: Final = 4
"""Words of the question in a row; three are shared by any statement of the fact and its question."""


def text_pattern(text: str) -> str:
    """Return a regular expression for a text as words of their own, blanks normalised, a leading article optional.

    Example:
        >>> bool(re.search(text_pattern("the Nile"), "It is  Nile water", re.IGNORECASE))
        True
        >>> bool(re.search(text_pattern("7"), "17 or 7.5"))
        False
    """
    words = text.strip().rstrip(".!?").split()
    if len(words) < 2 or words[0].casefold() not in ("the", "a", "an"):
        return words_pattern(text) or r"(?!)"  # a text without words is nowhere
    return rf"(?<!\w)(?:{words[0]}\s+)?{words_pattern(' '.join(words[1:]))}"


def sentences(text: str) -> list[tuple[int, int]]:
    """Return the spans of the sentences of a text, their ends included, blank ones left out.

    Example:
        >>> text = "One. Two?"
        >>> [text[start:end] for start, end in sentences(text)]
        ['One.', ' Two?']
    """
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    borders = [0, *ends, len(text)]
    return [(start, end) for start, end in itertools.pairwise(borders) if text[start:end].strip()]


def _blank(text: str, spans: Sequence[tuple[int, int]]) -> str:
    for start, end in spans:
        text = text[:start] + "\n" * (end - start) + text[end:]
    return text


def _option_runs(text: str, options: Sequence[str], least: int = 2) -> list[tuple[int, int]]:
    """Return the spans of listings: two or more lettered options in a row, or all options in a row where there are `least`."""
    known = sorted({option.strip() for option in options} - {""}, key=lambda option: (-len(option), option))
    if len(known) < 2:
        return []
    given = "|".join(f"(?P<o{number}>{text_pattern(option)})" for number, option in enumerate(known))
    item = re.compile(rf"(?P<letter>\(?\b[A-Z][).:]\s*)?(?:{given})", re.IGNORECASE)
    runs: list[list[tuple[int, int, str, bool]]] = []
    for match in item.finditer(text):
        found = next(name for name, value in match.groupdict().items() if name != "letter" and value is not None)
        start, end, is_lettered = *match.span(), match["letter"] is not None
        before = runs[-1] if runs else []
        # an option that comes again, or with another form, is no longer the listing
        goes_on = before and before[-1][3] == is_lettered and found not in {name for _, _, name, _ in before}
        if goes_on and _BETWEEN.fullmatch(text, before[-1][1], start):
            before.append((start, end, found, is_lettered))
        else:
            runs.append([(start, end, found, is_lettered)])
    return [
        (run[0][0], run[-1][1])
        for run in runs
        if (run[0][3] and len(run) > 1) or (len(run) == len(known) and len(known) >= least)
    ]


def stem_of(question: str, options: Sequence[str]) -> str:
    """Return the question without the list of its options; "X or Y" is no list, but what is asked.

    Example:
        >>> stem_of("Which town? A) Rome B) Bern", ["Rome", "Bern"]).strip()
        'Which town?'
        >>> stem_of("Is it Rome or Bern?", ["Rome", "Bern"])
        'Is it Rome or Bern?'
    """
    return _blank(question, _option_runs(question, options, least=3))


def _words(text: str) -> list[tuple[str, int, int]]:
    return [(match[0].casefold(), *match.span()) for match in _WORD.finditer(text)]


def _segments(text: str) -> list[list[str]]:
    found = [[word for word, _, _ in _words(text[start:end])] for start, end in sentences(text)]
    return [words for words in found if len(words) >= _LEAST_RUN]


def without_echo(trace: str, question: str, options: Sequence[str] = ()) -> str:
    """Return a trace of the same length whose echoes of the question and its options are line breaks.

    Example:
        >>> without_echo("Where was Ann born? In Bern.", "Where was Ann born?").strip()
        'In Bern.'
    """
    trace = _blank(trace, _option_runs(trace, options))
    stem = stem_of(question, options)
    words = _words(trace)
    names = [word for word, _, _ in words]
    spans = [
        (words[place][1], words[place + len(segment) - 1][2])
        for segment in _segments(stem)
        for place in range(len(names) - len(segment) + 1)
        if names[place : place + len(segment)] == segment
    ]
    asked = [word for word, _, _ in _words(stem)]
    runs = {tuple(asked[place : place + _LEAST_RUN]) for place in range(len(asked) - _LEAST_RUN + 1)}
    covered: set[int] = set()
    for place in range(len(names) - _LEAST_RUN + 1):
        if tuple(names[place : place + _LEAST_RUN]) in runs:
            covered.update(range(place, place + _LEAST_RUN))
    for start, end in sentences(trace):
        inside = [place for place, (_, begin, _) in enumerate(words) if start <= begin < end]
        if inside and covered.issuperset(inside):
            spans.append((start, end))
    return _blank(trace, spans)
