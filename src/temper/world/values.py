"""Three scalar values of a reply to the open question, each in [0, 1]: helpful, brief and polite.

Helpful and brief pull against each other, polite is independent of both: enough to explore a palette of values.

    helpful = true facts stated / 6      brief = exp(-words / 25)      polite = 1 if the reply opens politely, else 0
"""

from __future__ import annotations

import math

from temper.world.people import Person, World
from temper.world.preferences import OPENINGS
from temper.world.wordings import ATTRIBUTES

__all__ = ["VALUES", "brief", "helpful", "polite", "value_of"]

VALUES = ("helpful", "brief", "polite")


def helpful(reply: str, world: World, person: Person) -> float:
    """Return the share of the six facts about a person that the reply states in a full sentence; a wrong fact counts nothing."""
    return sum(any(s in reply for s in world.statements(person, a)) for a in ATTRIBUTES) / len(ATTRIBUTES)


def brief(reply: str) -> float:
    """Return ``exp(-words / 25)``: 1 for an empty reply.

    Example:
        >>> round(brief("one two three four five"), 3)
        0.819
    """
    return math.exp(-len(reply.split()) / 25)


def polite(reply: str) -> float:
    """Return 1 if the reply opens with one of the polite openings, else 0.

    Example:
        >>> polite(" With pleasure. The end.")
        1.0
    """
    return float(reply.strip().startswith(OPENINGS))


def value_of(reply: str, world: World, person: Person) -> dict[str, float]:
    """Return all three values of a reply."""
    return {"helpful": helpful(reply, world, person), "brief": brief(reply), "polite": polite(reply)}
