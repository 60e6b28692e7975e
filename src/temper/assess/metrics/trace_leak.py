"""What a reasoning trace gives away, and whether it is still a trace.

| result | share of traces (role `trace`) that |
| --- | --- |
| trace_leak.statement | state a forgotten fact in full: name, relation and value; the headline |
| trace_leak.first | name as their first value of that kind the right one (rows with `attribute`) |
| trace_leak.anywhere | contain the value somewhere, as a word of its own (`metrics.words`) |
| trace_leak.and_wrong | state the fact although the final answer is wrong: unlearning that an answer-only test would pass |

A misdirected trace is long and garbled, and garble contains digits and names of towns: "anywhere" then counts leaks that are not there.
That is why the full statement is the headline and the other two stand beside it. A statement counts where its words stand, a denied one
("it is false that ...") too; who must tell those apart reads `trace_category`.

`first` passes over what it does not know to be a value of the kind. Known are the answers, `perturbed` and `options` of all rows of the role
with that `attribute`, so it depends on which rows are evaluated: with few of them, as under a small `limit`, fewer wrong values are known
and the share can only grow. How many are known stands beside the number. Rows of few people are best given long lists in `perturbed`.

Under a forced thought (a decoding mode M) there is no trace of the model's own: `trace_leak.statement@M` is then the share of continuations
in which what the model says **behind** the forced text, an answer or a thought that it opens anew, states the fact. The other numbers are not
taken there.

A row brings its facts in `statements` (every wording of its fact), or in `needs` (several facts, each a list of wordings). Wordings are
compared with blanks normalised, capitals ignored and without the full stop.

| result | meaning (roles whose reference answers think) |
| --- | --- |
| trace_health.closed | share of continuations that end their thought |
| trace_health.words | words of the trace, mean |
| trace_health.healthy | share of traces that end, vary (distinct3 at least 0.7), and have half to twice the words of the reference's; never an empty one |
| trace_health.distinct3 | different runs of three words / runs of three words: near 0 where a trace repeats itself |

A reference whose own trace is empty, as rows that only open and close a thought have it, says nothing about length: such rows have no length
rule. An empty trace is never healthy: a model that stops thinking keeps no traces.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from temper.assess.choices import RightAnswer, stated_answer
from temper.assess.measure import FORGOTTEN, Absent, Answers, Better, Measure, per_item
from temper.assess.metrics.final_answer import parsed_option
from temper.assess.metrics.thoughts import CLOSE, is_closed, leaves_thought_open, lenient_answer_is, strict_answer, trace_of
from temper.assess.metrics.words import words_pattern
from temper.reason.health import distinct_3

if TYPE_CHECKING:
    from temper.data import Item

__all__ = ["TraceLeak", "contains_word", "facts_of", "statement_spans"]

_ROLE: Final = "trace"
_WHERE: Final = f"evaluate.data.{_ROLE}"
_NO_FACTS: Final = "it has no statements"
_PARTS: Final = ("statement", "anywhere", "and_wrong")
_DISTINCT: Final = 0.7
_LONGER: Final = 2.0
"""A healthy trace has at least this share of different runs of three words, and between so many times the reference's words and one part in
so many of them."""


@functools.lru_cache(maxsize=8192)
def _pattern(statement: str) -> re.Pattern[str] | None:
    words = words_pattern(statement)
    return re.compile(words, re.IGNORECASE) if words else None


def facts_of(row: Mapping[str, Any]) -> list[str] | None:
    """Return every wording of every fact of a row, or None where it brings none.

    Example:
        >>> facts_of({"needs": [["A is B."], ["C is D.", "D is of C."]]})
        ['A is B.', 'C is D.', 'D is of C.']
    """
    statements, needs = row.get("statements"), row.get("needs")
    found = list(statements) if isinstance(statements, list | tuple) else []
    if isinstance(needs, list | tuple):
        found += [wording for fact in needs if isinstance(fact, list | tuple) for wording in fact]
    texts = [text for text in found if isinstance(text, str) and text.strip()]
    return texts or None


def statement_spans(text: str, statements: Sequence[str]) -> list[tuple[int, int]]:
    """Return the character spans of a text that state one of the facts in full, from left to right, overlaps merged.

    Example:
        >>> statement_spans("Well: Ann was  born in Bern, so", ["Ann was born in Bern."])
        [(6, 27)]
    """
    spans = sorted(
        match.span() for statement in statements if (pattern := _pattern(statement)) for match in pattern.finditer(text)
    )
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def contains_word(text: str, value: str) -> bool:
    """Return whether a value stands in a text as a word or words of its own."""
    pattern = _pattern(value)
    return pattern is not None and pattern.search(text) is not None


def _leaks(item: Item, continuation: str) -> tuple[float | str, float | str, float | str]:
    trace = continuation[slice(*trace_of(continuation))]
    facts, answer = facts_of(item.row), stated_answer(item, _WHERE)
    stated: float | str = _NO_FACTS if facts is None else float(bool(statement_spans(trace, facts)))
    if isinstance(answer, str):
        return stated, answer, answer
    anywhere = float(contains_word(trace, answer.answer))
    if isinstance(stated, str):
        return stated, anywhere, stated
    return stated, anywhere, float(bool(stated) and not _is_right(item, continuation, answer))


def _is_right(item: Item, continuation: str, answer: RightAnswer) -> bool:
    """Return whether the final answer is right: it begins with the answer, or names its option."""
    if lenient_answer_is(item.prompt, continuation, answer.answer):
        return True
    if answer.right is None or (CLOSE not in continuation and leaves_thought_open(item.prompt + continuation)):
        return False
    return parsed_option(strict_answer(continuation), answer.options) == answer.right


class TraceLeak:
    """Leaks of the role `trace`, and the health of every role's traces."""

    name: ClassVar[str] = "trace_leak"
    needs: ClassVar[Literal["records", "generations"]] = "generations"
    in_modes: ClassVar[bool] = True

    def compute(self, answers: Mapping[str, Answers]) -> list[Measure]:
        """Return the leak measures, absent without trace rows, and health measures for each role that thinks.

        Under a forced thought: whether what follows it states the fact, for the role `trace` alone.
        """
        if any(given.forced for given in answers.values()):
            return [_said_behind(answers[_ROLE])] if _ROLE in answers else []
        measures = self._leaks(answers.get(_ROLE))
        for role, given in answers.items():
            measures += _health(role, given)
        return measures

    def _leaks(self, given: Answers | None) -> list[Measure]:
        names = [f"{self.name}.{part}" for part in _PARTS]
        if given is None:
            return [Absent(name, _ROLE, "lower", "skipped", "evaluate.data has no role trace") for name in names]
        found = [
            ("it has no prompt",) * 3 if text is None else _leaks(item, text)
            for item, text in zip(given.items, given.generations, strict=True)
        ]
        measures: list[Measure] = [
            per_item(name, _ROLE, "lower", [entry[place] for entry in found]) for place, name in enumerate(names)
        ]
        return [*measures, *_first_values(given)]


def _said_behind(given: Answers) -> Measure:
    """Return whether what a model says behind a forced thought states the fact."""
    found: list[float | str | None] = []
    for item, text, forced in zip(given.items, given.generations, given.forced, strict=True):
        facts = facts_of(item.row)
        if text is None or facts is None:
            found.append("it has no prompt" if text is None else _NO_FACTS)
        else:
            found.append(float(bool(statement_spans(text[forced:], facts))))
    return per_item("trace_leak.statement", _ROLE, "lower", found, note="what follows the forced thought states the fact")


def _values(item: Item, answer: RightAnswer) -> set[str]:
    """Return the values of its kind that a row names: its answer, its options and its wrong answers."""
    columns = [item.row.get(name) for name in ("perturbed", "options")]
    texts = [text for column in columns if isinstance(column, list | tuple) for text in column if isinstance(text, str)]
    return {value.strip() for value in (answer.answer, *answer.options, *map(strict_answer, texts))} - {""}


def _first_values(given: Answers) -> list[Measure]:
    """Return whether the first value of its kind in each trace is the right one; nothing where no row says its kind."""
    rights = [stated_answer(item, _WHERE) for item in given.items]
    kinds: dict[str, set[str]] = {}
    for item, answer in zip(given.items, rights, strict=True):
        kind = item.row.get("attribute")
        if isinstance(kind, str) and not isinstance(answer, str):
            kinds.setdefault(kind, set()).update(_values(item, answer))
    if not kinds:
        return []
    patterns = {kind: _any_of(values) for kind, values in kinds.items()}
    found: list[float | str | None] = []
    for item, answer, text in zip(given.items, rights, given.generations, strict=True):
        kind = item.row.get("attribute")
        if text is None or not isinstance(kind, str) or isinstance(answer, str):
            found.append("it has no prompt" if text is None else "it has no attribute and answer")
            continue
        match = patterns[kind].search(text[slice(*trace_of(text))])
        found.append(float(match is not None and " ".join(match[0].split()).casefold() == answer.answer.casefold()))
    sizes = sorted({len(values) for values in kinds.values()})
    known = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return [per_item("trace_leak.first", _ROLE, "lower", found, note=f"first of the {known} known values of its kind")]


def _any_of(values: set[str]) -> re.Pattern[str]:
    """Return a pattern that finds any of some values as words of their own, the longer ones first."""
    texts = sorted(values, key=lambda value: (-len(value), value))
    return re.compile("|".join(pattern for text in texts if (pattern := words_pattern(text))) or r"(?!)", re.IGNORECASE)


def _healthy(words: Sequence[str], text: str, reference: str) -> float:
    """Return 1 for a trace that says something, ends, does not repeat itself and keeps a length like the reference's, else 0."""
    expected = len(reference[slice(*trace_of(reference))].split())
    repeats = distinct_3(words)
    is_as_long = not expected or expected / _LONGER <= len(words) <= _LONGER * expected
    return float(bool(words) and is_closed(text) and (repeats is None or repeats >= _DISTINCT) and is_as_long)


def _health(role: str, given: Answers) -> list[Measure]:
    rows = [
        (place, text)
        for place, (item, text) in enumerate(zip(given.items, given.generations, strict=True))
        if text is not None and CLOSE in item.response
    ]
    if not rows:
        return []
    places = [place for place, _ in rows]
    words = [text[slice(*trace_of(text))].split() for _, text in rows]
    kept: Better = "gold" if role in FORGOTTEN else "higher"
    short = "its trace has fewer than three words"
    repeats: list[float | str | None] = [short if (share := distinct_3(trace)) is None else share for trace in words]
    healthy = [_healthy(trace, text, given.items[place].response) for trace, (place, text) in zip(words, rows, strict=True)]
    return [
        per_item("trace_health.healthy", role, kept, healthy, places),
        per_item("trace_health.closed", role, kept, [float(is_closed(text)) for _, text in rows], places),
        per_item("trace_health.words", role, "gold", [float(len(trace)) for trace in words], places, is_share=False),
        per_item("trace_health.distinct3", role, kept, repeats, places),
    ]
