"""Completions side by side: what each model answered to the same prompt, the spans that state the fact marked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from temper.display.text import marked
from temper.display.theme import icon
from temper.report.columns import Column, Columns

__all__ = ["SHOWN", "Answer", "Shown", "completions"]

SHOWN: Final = 80
"""Rows a page holds; the others stay in report.json."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one model answered, cut at the spans that state the fact."""

    name: str
    icon: Markup
    pieces: tuple[tuple[str, bool], ...]
    leaks: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """One prompt and all answers to it."""

    id: str
    role: str
    prompt: str
    reference: str
    answers: tuple[Answer, ...]
    missing: tuple[str, ...]

    @property
    def leaks(self) -> bool:
        """Whether a run, not the original or gold, states the fact."""
        return any(answer.leaks for answer in self.answers if answer.name not in ("original", "gold"))


def _answer(column: Column, item: tuple[str, str], known: dict[tuple[str, str, str], Answer | None]) -> Answer | None:
    key = (column.name, *item)
    if key not in known:
        example = next((e for e in column.evidence.examples if (e.id, e.role) == item), None)
        text = example.completions.get(column.which) if example else None
        if example is None or text is None:
            known[key] = None
        else:
            pieces = tuple(marked(text, example.leaks.get(column.which, [])))
            known[key] = Answer(column.name, icon(column.mark), pieces, any(is_marked for _, is_marked in pieces))
    return known[key]


def completions(models: Columns) -> list[Shown]:
    """Return all examples in the order of the evidence, those of several runs joined by id and role."""
    first = {(e.id, e.role): e for column in reversed(models.runs) for e in reversed(column.evidence.examples)}
    order = dict.fromkeys((e.id, e.role) for column in models.runs for e in column.evidence.examples)
    known: dict[tuple[str, str, str], Answer | None] = {}
    made = []
    for item in order:
        answers = {column.name: _answer(column, item, known) for column in models}
        present = tuple(answer for answer in answers.values() if answer is not None)
        missing = tuple(c.name for c in models if answers[c.name] is None and c.facts is not None)
        example = first[item]
        made.append(Shown(example.id, example.role, example.prompt, example.reference, present, missing))
    return made
