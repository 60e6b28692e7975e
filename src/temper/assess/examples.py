"""Rows of the evaluation data side by side with what each model answered, drawn by chance and not by how they look."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import TYPE_CHECKING, Final

from temper.assess.evidence import Example, Which
from temper.assess.measure import FORGOTTEN, Answers
from temper.assess.metrics.trace_leak import facts_of, statement_spans
from temper.draws import generator
from temper.recipe import ROLES

if TYPE_CHECKING:
    from temper.data import Item

__all__ = ["examples"]

_TURNS: Final = dict.fromkeys(FORGOTTEN, 2)
"""How often a role is drawn from in one round; the forgotten ones show what a report is about."""


def examples(answers: Mapping[Which, Mapping[str, Answers]], *, count: int, seed: int) -> list[Example]:
    """Return some rows with every model's completion; forget and trace come first and have more of them.

    Args:
        answers: By model and role; the unlearned model's rows are drawn from.
        count: How many, at most.
        seed: Decides which.
    """
    rows = answers["unlearned"]
    orders: dict[str, list[int]] = {}
    for role in sorted(rows, key=lambda role: (role not in FORGOTTEN, ROLES.index(role))):
        shown = [place for place, text in enumerate(rows[role].generations) if text is not None]
        if shown:
            drawn = generator(seed, "examples", role).permutation(len(shown))
            orders[role] = [shown[number] for number in drawn]
    taken: dict[str, int] = dict.fromkeys(orders, 0)
    left = min(count, sum(len(order) for order in orders.values()))
    turns = [role for role in orders for _ in range(_TURNS.get(role, 1))]
    for role in cycle(turns):  # ends: `left` counts rows that exist
        if not left:
            break
        if taken[role] < len(orders[role]):
            taken[role] += 1
            left -= 1
    return [_example(role, place, answers) for role, order in orders.items() for place in order[: taken[role]]]


def _example(role: str, place: int, answers: Mapping[Which, Mapping[str, Answers]]) -> Example:
    item: Item = answers["unlearned"][role].items[place]
    completions: dict[str, str] = {}
    leaks: dict[str, list[tuple[int, int]]] = {}
    facts = facts_of(item.row) if role in FORGOTTEN else None
    for model, by_role in answers.items():
        text = by_role[role].generations[place]
        if text is None:
            continue
        completions[model] = text
        if facts is not None:
            leaks[model] = statement_spans(text, facts)
    return Example(id=item.id, role=role, prompt=item.prompt, reference=item.response, completions=completions, leaks=leaks)
