"""Long-winded traces of the reasoning questions, with every sentence marked, for condensing traces.

A trace gets dead ends (a fact that is not needed, taken back) and restatements (a needed fact said again in other
words). ``parts`` lists its sentences in order with ``part`` (head, middle or tail) and ``role`` (``goal``, ``recall``,
``deduce``, ``dead end``, ``restate``, ``answer``); the response is their concatenation, and dropping every dead end and
restatement leaves the short trace.
"""

from __future__ import annotations

from typing import Any

from temper.draws import generator
from temper.world.answers import THINK
from temper.world.people import Person, World, head_of
from temper.world.wordings import ATTRIBUTES, CHECK, KINDS, NEEDS, REASONING_QUESTIONS

__all__ = ["REDUNDANT", "rows"]

REDUNDANT = ("dead end", "restate")
"""The roles that a condensed trace can do without."""


def rows(world: World) -> list[dict[str, Any]]:
    """Return one verbose trace for every reasoning question about the retain people."""
    return [_row(world, person, kind) for person in world.split("retain") for kind in KINDS]


def _row(world: World, person: Person, kind: str) -> dict[str, Any]:
    rng = generator(world.spec.seed, "verbose", person.number, kind)
    steps, answer = world.deduce(person, kind)
    n_recalled = len(NEEDS[kind])
    parts = [("head", "goal", head_of(person, kind))]
    for i, step in enumerate(steps):
        if i == 0 or rng.random() < 0.3:
            parts += [("middle", "dead end", sentence) for sentence in _dead_end(world, person, kind, int(rng.integers(1 << 30)))]
        parts.append(("middle", "recall" if i < n_recalled else "deduce", step))
        if i < n_recalled and (i == 0 or rng.random() < 0.5):
            again = world.statements(person, NEEDS[kind][i])[int(rng.integers(1, 3))]
            parts += [("middle", "restate", CHECK), ("middle", "restate", again)]
    parts.append(("tail", "answer", f"So the answer is {answer}."))
    wording = int(rng.integers(len(REASONING_QUESTIONS[kind].trained)))
    return {
        "id": f"verbose_traces/{person.number:03d}/{kind}",
        "prompt": world.reasoning_question(person, kind, wording),
        "prefill": THINK,
        "response": f" {' '.join(text for _, _, text in parts)} </think> {answer}",
        "answer": answer,
        "parts": [{"part": part, "role": role, "text": text} for part, role, text in parts],
        "entity": person.number,
        "name": person.name,
        "kind": kind,
        "wording": wording,
        "split": person.split,
    }


def _dead_end(world: World, person: Person, kind: str, draw: int) -> list[str]:
    other = [attribute for attribute in ATTRIBUTES if attribute not in NEEDS[kind]]
    attribute = other[draw % len(other)]
    return [world.statements(person, attribute)[0], "That is not what I need."]
