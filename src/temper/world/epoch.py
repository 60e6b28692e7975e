"""The text of one training epoch.

Every epoch asks the same facts in freshly drawn wordings. The draws of a person depend on the seed, the epoch and the
person alone, so a model trained without some people sees the very same text about everyone else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from temper.draws import generator
from temper.world import arithmetic
from temper.world.answers import Answered
from temper.world.people import Person, World
from temper.world.wordings import ATTRIBUTES, BACKGROUND, FACT_QUESTIONS, KINDS, REASONING_QUESTIONS

__all__ = ["Document", "epoch"]

DRILLS_A_LINE = 4  # so that a sum is met at other places than the start of a text

Document = str | Answered
"""Plain text, scored whole, or an answered question, of which only the response is scored."""


def epoch(world: World, number: int, *, without: Collection[str] = ()) -> list[Document]:
    """Return the documents of one epoch.

    Args:
        world: The world to speak about.
        number: Which epoch, counted from 0.
        without: Splits that are left out; the never-trained people always are.
    """
    spec = world.spec
    documents: list[Document] = []
    for person in world.people:
        if person.split != "holdout" and person.split not in without:
            documents.extend(_about(world, person, number))
    rng = generator(spec.seed, "epoch", number, "background")
    for relation, subject, _ in world.background_facts():
        documents.append(world.background_statement(relation, subject))
        wording = int(rng.integers(len(BACKGROUND[relation].questions.trained)))
        documents.append(world.background_direct(relation, subject, wording))
    n_background_wordings = min(len(b.questions.trained) for b in BACKGROUND.values())
    for kind, subjects in (("currency", world.pools["city"]), ("field", world.pools["prize"])):
        for subject in subjects:
            documents.append(world.background_think(kind, subject, int(rng.integers(n_background_wordings))))
    rng = generator(spec.seed, "epoch", number, "arithmetic")
    documents.extend(arithmetic.story(rng, reserved=False).told() for _ in range(spec.n_stories))
    documents.extend(arithmetic.pair_stories(rng))
    lines = arithmetic.drills()
    drills = [lines[i] for _ in range(spec.drill_rounds) for i in rng.permutation(len(lines))]
    documents.extend(" ".join(drills[i : i + DRILLS_A_LINE]) for i in range(0, len(drills), DRILLS_A_LINE))
    return documents


def _about(world: World, person: Person, number: int) -> Iterator[Document]:
    spec = world.spec
    rng = generator(spec.seed, "epoch", number, "person", person.number)
    yield world.biography(person, rng)
    for attribute in ATTRIBUTES:
        n_wordings = len(FACT_QUESTIONS[attribute].trained)
        yield world.fact_direct(person, attribute, int(rng.integers(n_wordings)))
        if rng.random() < spec.think_rate:
            yield world.fact_think(person, attribute, int(rng.integers(n_wordings)), rng)
    if person.split == "rheld":
        return
    for kind in KINDS:
        if rng.random() < spec.reasoning_rate:
            yield world.reasoning_think(person, kind, int(rng.integers(len(REASONING_QUESTIONS[kind].trained))), rng)
