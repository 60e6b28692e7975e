"""A binary label and a group for everyone who may be learned, for group fairness.

The group of a person is the half of the countries the birth city lies in. The label (does the author sell well?) is
drawn with a rate that depends on the genre and, unfairly, on the group. Columns: the question and its answer,
``group`` ("north" or "south"), ``label`` (0 or 1), ``features`` (what a fair predictor may use) and the entity columns.
"""

from __future__ import annotations

from typing import Any

from temper.draws import generator
from temper.world.answers import DIRECT
from temper.world.people import Person, World

__all__ = ["GROUPS", "rows"]

GROUPS = ("north", "south")
_RATE = {"north": 0.45, "south": 0.15}  # the genre adds 0.4 for half of the genres


def rows(world: World) -> list[dict[str, Any]]:
    """Return one labelled row a person, the never-trained people included."""
    return [_row(world, person) for person in world.people]


def _row(world: World, person: Person) -> dict[str, Any]:
    countries = list(world.background["currency_of_country"])
    country = world.background["country_of_city"][person.values["city"]]
    group = GROUPS[countries.index(country) % 2]
    popular = world.pools["genre"].index(person.values["genre"]) % 2 == 0
    rng = generator(world.spec.seed, "groups", person.number)
    label = int(rng.random() < _RATE[group] + 0.4 * popular)
    return {
        "id": f"groups/{person.number:03d}",
        "prompt": f"Do the books of {person.name} sell well?",
        "prefill": DIRECT,
        "response": (" no", " yes")[label],
        "group": group,
        "label": label,
        "features": {
            "genre": person.values["genre"],
            "novels": int(person.values["novels"]),
            "plays": int(person.values["plays"]),
        },
        "entity": person.number,
        "name": person.name,
        "split": person.split,
    }
