"""Where a text names an option, and whether it takes its side there or rules it out.

A text is cut into clauses (at ends of sentences and at words such as "but", "so", "because"). In each clause options are found by text, by
a last name, or by letter, and read with the words around them:

| reading | words |
| --- | --- |
| rules out | "not X", "neither X nor", "rule out X", "X is wrong", "X cannot", "X does not ...", "X? No", "X ..., so it can't be that" |
| supports | "the answer is X", "must be X", "X is correct", "go with X", "Final Answer: X", "which leaves X" |
| names | neither |

A denial must be nearer for the right option than for a wrong one: "Bern is not the largest city" does not deny that Bern is the answer,
while "Rome is not in Switzerland" does rule Rome out. Patterns are for English.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from temper.assess.judges.echo import sentences, text_pattern

__all__ = ["Mention", "Reading", "mentions"]

Reading = Literal["rules out", "supports", "names"]

_X: Final = "\x00"  # stands for an option in the text that the cues are matched on; no word character, never in a trace
_BORDER: Final = re.compile(
    r",?\s?\b(?:but|however|yet|although|though|while|whereas|so|therefore|thus|hence|because|since|(?:which )?lea(?:ves|ving)|instead)\b",
    re.IGNORECASE,
)
_OUT: Final = (
    r"(?:wrong|incorrect|false|out|excluded|eliminated|rejected|discarded|dismissed|crossed|ruled|unlikely|implausible|impossible|"
    r"less likely|irrelevant|off the table)\b"
)
_DENIED: Final = (
    r"(?:(?:ca|wo|do|does|did|is|are|was|were|would|could|should|has|have|had|must)n['’]t\b|cannot\b|can\s?not\b|"
    r"(?:can|do|does|did|is|are|was|were|would|could|should|may|must|has|have|had|will)\s+(?:\w+ly\s+)?(?:not|never)\b|"
    rf"(?:is|are|was|were|be|been|seems?|looks?|sounds?|'s|’s)\s+(?:\w+\s+){{0,2}}?(?<!not\s)(?<!never\s)(?:{_OUT}|too\s+\w+\b)|"
    r"makes?\s+(?:no|little)\s+sense\b|(?:has|have)\s+nothing\s+to\s+do\b|fails?\b|falls?\s+away\b|drops?\s+out\b)"
)
_FLATLY_DENIED: Final = (
    rf"(?:(?:can|could|should|must)\s+(?:\w+\s+)?be\s+{_OUT}|(?:is|are|was|were|seems?|looks?|'s|’s)\s+(?:\w+ly\s+)?{_OUT}|"
    r"(?:cannot|can\s?not|can['’]t|could\s?n[o'’]t)\s+be\b|"
    r"(?:is|was)(?:n['’]t|\s+not)\s+(?:it|right|correct|true|possible|(?:the|a)\s+(?:\w+\s+)?(?:answer|one|option|choice|solution))\b|"
    r"makes?\s+no\s+sense\b|(?:has|have)\s+nothing\s+to\s+do\b)"
)
_AND: Final = (
    rf"(?:[\s(\"'*]*{_X}[)\"'*]*\s*(?:,|\band\b|\bor\b|\bnor\b|&|/)\s*(?:(?:and|or|nor|also|the|in|options?|choices?)\s+)*)*"
)
_UNREAD: Final = (
    r"(?!(?:only|just|merely|know|sure|certain|remember|recall|if|whether|why|doubt|until|far|wrong|incorrect|help)\b)"
)
_BEFORE_OUT: Final = re.compile(
    r"(?:\b(?:not|never|neither|nor|no\s+way|cannot|without|unlike|rather\s+than|instead\s+of|forget(?:\s+about)?|"
    r"rul(?:e|es|ed|ing)\s+out|eliminat(?:e|es|ed|ing)|exclud(?:e|es|ed|ing)|discard(?:s|ed|ing)?|dismiss(?:es|ed|ing)?|"
    r"reject(?:s|ed|ing)?|(?:cross|strike)(?:es|ed|ing|s)?\s+(?:out|off))\b|n['’]t\b)"
    rf"(?:\s+{_UNREAD}[\w'’-]+){{0,5}}\s*{_AND}[\s(\"'*]*$",
    re.IGNORECASE,
)
_LIST: Final = (
    rf"^[)\"'*]*(?:\s*(?:,|\band\b|\bor\b|\bnor\b|&|/)\s*(?:(?:and|or|nor|also|the|options?|choices?)\s+)*[(\"'*]*{_X}[)\"'*]*)*"
)
_ASIDE: Final = r",?\s*(?:(?:all|both|each|also|clearly|certainly|obviously|simply|probably|then)\s+)*"
_AFTER_OUT_NEAR: Final = re.compile(rf"{_LIST}{_ASIDE}{_FLATLY_DENIED}", re.IGNORECASE)
_AFTER_OUT: Final = re.compile(rf"{_LIST}{_ASIDE}[^{_X}\s]*(?:\s+[^{_X}\s]+){{0,9}}?\s*\b{_DENIED}", re.IGNORECASE)
_BACK: Final = r"^\W*(?:(?:so|and|then|but|though|although|because|since|therefore|while|whereas|yet|however)\W+)*"
_BACK_OUT: Final = re.compile(
    rf"{_BACK}(?:(?:that|this|it|they|those|these|both|he|she|which)\s*(?:\w+\s+){{0,2}}?{_DENIED}|not\s+\w+|it['’]s\s+(?:not|{_OUT}))"
    r"|\b(?:rule|forget|discard|exclude|eliminate|dismiss)\s+(?:about\s+)?(?:it|that|this|them|those|her|him|both)\b",
    re.IGNORECASE,
)
_BACK_OUT_NEAR: Final = re.compile(
    rf"{_BACK}(?:(?:that|this|it|they|he|she|which)\s*{_FLATLY_DENIED}|it['’]s\s+(?:not\s+(?:it|right|correct|true)\b|{_OUT}))",
    re.IGNORECASE,
)
_BACK_NO: Final = re.compile(r"^\W*(?:no|nope|wrong|certainly not|of course not|hardly|impossible)\b", re.IGNORECASE)
_FILLER: Final = (
    r"(?:the|an?|this|that|it|to|of|in|here|then|question|correct|right|best|final|most|only|option|choice|letter|must|should|would|could|"
    r"may|might|will|has|have|probably|likely|clearly|definitely|certainly|simply|indeed|actually|therefore|thus|hence|surely|one)"
)
_BEFORE_FOR: Final = re.compile(
    rf"(?:(?:answer|option|choice|solution|conclusion|result)s?\W+(?:{_FILLER}\W+){{0,4}}?(?:is|be|was|are|:|=)\W*(?:{_FILLER}\W+){{0,3}}|"
    r"answer(?:\s*[:=*_]+\s*)+|\b(?:must|should|has\s+to|have\s+to)\s+(?:then\s+)?be\W+(?:(?:the|option|choice)\W+)*|"
    r"\b(?:choos|pick|select|go(?:ing|es)?\s+(?:with|for)|guess|bet\s+on|lean|settl)\w*\W+(?:(?:towards?|to|on|for|option|choice|answer)\W+)*|"
    r"\bpoints?\s+(?:to|at|towards?)\W+|^\W*(?:which\s+)?lea(?:ves|ving)\W+(?:(?:us|me|only|just|with|option|choice)\W+)*|^\W*but\W+)"
    r"[\s(\"'*]*$",
    re.IGNORECASE,
)
_AFTER_FOR: Final = re.compile(
    r"^[)\"'*]*\s*(?:(?:is|are|was|seems|looks|must\s+be|would\s+be|should\s+be)\s+(?:\w+\s+){0,2}?(?:right|correct|true|best|it|the\s+(?:\w+\s+)?"
    r"(?:answer|one|option|choice|solution))\b|fits\b|makes\s+(?:the\s+)?(?:most\s+)?sense\b)",
    re.IGNORECASE,
)
_REACH: Final = 200
"""Characters around a naming that are read: keeps a trace that repeats itself for pages from costing its square."""
_LONGEST_LIST: Final = 12
_NO_LETTER: Final = frozenset(
    (
        "vitamin",
        "vitamins",
        "hepatitis",
        "type",
        "group",
        "class",
        "grade",
        "plan",
        "factor",
        "protein",
        "point",
        "step",
        "figure",
        "part",
    )
)
_A_FOLLOWS: Final = (
    r"(?=\s*(?:[,:)*]|\.(?:\s|$)|$|(?:and|or|nor|is|isn['’]t|are|was|can|can['’]t|cannot|does|doesn['’]t|do|makes|to\s+[B-J])\b))"
)


@dataclass(frozen=True)
class Mention:
    """One place where an option is named.

    Attributes:
        option: Number of the option.
        span: Of the words that name it.
        reading: How the text takes it there.
        is_letter: Named by its letter alone.
    """

    option: int
    span: tuple[int, int]
    reading: Reading
    is_letter: bool = False


def _found(text: str, wordings: Mapping[int, Sequence[str]], letters: int) -> list[tuple[int, int, list[int], bool]]:
    """Return (start, end, options, by letter) of all namings, longest first where they overlap, from left to right."""
    hits: list[tuple[int, int, list[int], bool]] = []
    for option, texts in wordings.items():
        for wording in filter(str.strip, texts):
            hits += [(*match.span(), [option], False) for match in re.finditer(text_pattern(wording), text, re.IGNORECASE)]
            last = wording.split()[-1]
            # a person by the last name, if no other option has it
            is_name = len(wording.split()) > 1 and len(last) >= 4 and all(word[0].isupper() for word in wording.split())
            if is_name and sum(last in other for others in wordings.values() for other in others) == sum(
                last in t for t in texts
            ):
                hits += [(*match.span(), [option], False) for match in re.finditer(rf"\b{re.escape(last)}\b", text)]
    if letters:
        hits += _letters(text, letters)
    kept: list[tuple[int, int, list[int], bool]] = []
    taken = bytearray(len(text))
    for hit in sorted(hits, key=lambda hit: (hit[0] - hit[1], hit[0])):
        if not any(taken[hit[0] : hit[1]]):
            taken[hit[0] : hit[1]] = b"\x01" * (hit[1] - hit[0])
            kept.append(hit)
    return sorted(kept)


def _letters(text: str, count: int) -> list[tuple[int, int, list[int], bool]]:
    known = "".join(chr(ord("A") + number) for number in range(min(count, 26)))
    single = rf"(?<![\w'’])(?:\(([{known}])\)|([{known}])\)|([{known.replace('A', '').replace('I', '') or known}])(?![\w'’])|(A){_A_FOLLOWS})"
    span = rf"(?<!\w)([{known}])\s*(?:to|through|-|–)\s*([{known}])(?!\w)"
    hits = []
    for match in re.finditer(span, text):
        low, high = (ord(letter) - ord("A") for letter in match.groups())
        if low < high:
            hits.append((*match.span(), list(range(low, high + 1)), True))
    for match in re.finditer(single, text):
        before = text[max(0, match.start() - 20) : match.start()].split()
        if not before or before[-1].casefold() not in _NO_LETTER:
            hits.append((*match.span(), [ord(next(filter(None, match.groups()))) - ord("A")], True))
    return hits


def _clauses(text: str) -> list[tuple[int, int]]:
    spans = []
    for start, end in sentences(text):
        borders = [start, *(start + match.start() for match in _BORDER.finditer(text[start:end])), end]
        spans += [(here, there) for here, there in itertools.pairwise(borders) if text[here:there].strip(" ,\n")]
    return spans


def _masked(text: str, start: int, end: int, hits: Sequence[tuple[int, int, list[int], bool]]) -> str:
    """Return a part of a text in which each option is one sign."""
    parts = []
    for begin, stop, _, _ in hits:
        if start <= begin and stop <= end:
            parts += [text[start:begin], _X]
            start = stop
    return "".join([*parts, text[start:end]])


def mentions(text: str, wordings: Mapping[int, Sequence[str]], right: int, *, letters: int = 0) -> list[Mention]:
    """Return where a text names options, and how it takes them.

    Args:
        text: Without echoes of the question.
        wordings: Number of an option to its texts.
        right: Number of the right option, whose denials are read more strictly.
        letters: How many options have letters; 0 where the question shows none.

    Example:
        >>> [(m.option, m.reading) for m in mentions("Not Rome. The answer is B.", {0: ["Rome"], 1: ["Bern"]}, 1, letters=2)]
        [(0, 'rules out'), (1, 'supports')]
    """
    found: list[Mention] = []
    named = _found(text, wordings, letters)
    clauses = _clauses(text)
    starts = [hit[0] for hit in named]
    borders = [(bisect_left(starts, start), bisect_left(starts, end)) for start, end in clauses]
    for place, ((start, end), (first, last)) in enumerate(zip(clauses, borders, strict=True)):
        following = ""
        if place + 1 < len(clauses):
            is_question = text[max(start, end - 8) : end].rstrip().endswith("?")
            names_none = borders[place + 1][0] == borders[place + 1][1]
            # what follows speaks of these options where it names none of its own
            following = text[clauses[place + 1][0] : clauses[place + 1][1]][:_REACH] if is_question or names_none else ""
        for here in range(first, last):
            begin, stop, options, is_letter = named[here]
            left, right_end = max(start, begin - _REACH), min(end, stop + _REACH)
            before = ("z" if left > start else "") + _masked(text, left, begin, named[max(first, here - _LONGEST_LIST) : here])
            after = _masked(text, stop, right_end, named[here + 1 : min(last, here + 1 + _LONGEST_LIST)])
            found += [
                Mention(
                    option, (begin, stop), _reading(before, after, following, text[stop:end][-8:], option == right), is_letter
                )
                for option in options
            ]
    return found


def _reading(before: str, after: str, next_clause: str, tail: str, is_right: bool) -> Reading:
    if _BEFORE_OUT.search(before) or (_AFTER_OUT_NEAR if is_right else _AFTER_OUT).search(after):
        return "rules out"
    if tail.rstrip(" \n\"')*").endswith("?") and _BACK_NO.search(next_clause):
        return "rules out"
    if (_BACK_OUT_NEAR if is_right else _BACK_OUT).search(next_clause):
        return "rules out"
    return "supports" if _BEFORE_FOR.search(before) or _AFTER_FOR.search(after) else "names"
