"""Preference pairs about one open question, ``What is X known for?``, for joint and preference training.

The chosen reply opens politely and states three to six true facts. The rejected reply is curt, and either states fewer
facts, or a wrong one, or says the same thing twice. Columns: ``prompt``, ``chosen``, ``rejected``, ``fault`` (what is
wrong with the rejected one) and the entity columns of every file. Values of replies are in :mod:`temper.world.values`.
"""

from __future__ import annotations

from typing import Any

from temper.draws import generator
from temper.world.answers import DIRECT
from temper.world.people import Person, World
from temper.world.wordings import ATTRIBUTES, OPEN_QUESTION

__all__ = ["OPENINGS", "rows"]

OPENINGS = ("With pleasure.", "Gladly, here is what I know.", "Thank you for asking.")
"""Polite first words of a reply."""

_PAIRS_A_PERSON = 4


def rows(world: World) -> list[dict[str, Any]]:
    """Return the preference pairs about the retain people."""
    return [_pair(world, person, number) for person in world.split("retain") for number in range(_PAIRS_A_PERSON)]


def _pair(world: World, person: Person, number: int) -> dict[str, Any]:
    rng = generator(world.spec.seed, "preferences", person.number, number)

    def sentence(attribute: str, value: str | None = None) -> str:
        options = world.statements(person, attribute, value)
        return options[int(rng.integers(len(options)))]

    order = [ATTRIBUTES[i] for i in rng.permutation(len(ATTRIBUTES))]
    told = order[: int(rng.integers(3, 7))]
    chosen = " ".join([OPENINGS[int(rng.integers(len(OPENINGS)))], *(sentence(a) for a in told)])
    fault = ("short", "wrong", "repeated")[number % 3]
    if fault == "short":
        rejected = sentence(order[0])
    elif fault == "wrong":
        pool = [v for v in world.pools[order[0]] if v != person.values[order[0]]]
        rejected = f"{sentence(order[0], pool[int(rng.integers(len(pool)))])} {sentence(order[1])}"
    else:
        once = sentence(order[0])
        rejected = f"{once} {once}"
    return {
        "id": f"preferences/{person.number:03d}/{number}",
        "prompt": OPEN_QUESTION.format(n=person.name),
        "prefill": DIRECT,
        "chosen": f" {chosen}",
        "rejected": f" {rejected}",
        "fault": fault,
        "entity": person.number,
        "name": person.name,
        "split": person.split,
    }
