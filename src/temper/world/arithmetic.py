"""Arithmetic without people: stories, small reckonings and drills.

One in eight of the combinations of the stories is reserved for evaluation. The other texts go through every sum,
difference and comparison that totals, comparisons and stories need, so that none of them is learned by a person's name.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from temper.world.answers import THINK, Answered

__all__ = ["COUNTS", "STORY_THINGS", "Story", "comparison", "distinct_stories", "drills", "pair_stories", "story"]

COUNTS = range(2, 10)
"""What is counted: from 2, so that "{v} novels" is always grammatical."""

STORY_THINGS = ("apples", "coins", "stones", "shells", "pens")


@dataclass(frozen=True)
class Story:
    """An arithmetic story: ``have + get - give`` of one thing."""

    have: int
    get: int
    give: int
    thing: str

    @property
    def reserved(self) -> bool:
        """Whether this combination is kept for evaluation: one in eight."""
        return (self.have * 31 + self.get * 17 + self.give * 7) % 8 == 0

    def told(self) -> Answered:
        """Return the story as a question, answered with a trace."""
        held, left = self.have + self.get, self.have + self.get - self.give
        question = (
            f"I have {self.have} {self.thing}, I get {self.get} more and give away {self.give}. How many {self.thing} do I have?"
        )
        trace = f"First {self.have} + {self.get} = {held}. Then {held} - {self.give} = {left}. So the answer is {left}."
        return Answered(question, THINK, f" {trace} </think> {left}", str(left))


def story(rng: np.random.Generator, *, reserved: bool) -> Story:
    """Return a drawn arithmetic story, of the reserved combinations or of the others."""
    while True:
        have, get, give = (int(n) for n in rng.integers(2, 10, size=3))
        drawn = Story(have, get, give, STORY_THINGS[int(rng.integers(len(STORY_THINGS)))])
        if give < have + get and drawn.reserved == reserved:
            return drawn


def distinct_stories(rng: np.random.Generator, count: int, *, reserved: bool) -> list[Story]:
    """Return ``count`` different arithmetic stories, of the reserved combinations or of the others, in a drawn order."""
    every = [Story(a, b, c, t) for a, b, c in itertools.product(COUNTS, repeat=3) for t in STORY_THINGS if c < a + b]
    chosen = [story for story in every if story.reserved == reserved]
    return [chosen[i] for i in rng.permutation(len(chosen))[:count]]


def pair_stories(rng: np.random.Generator) -> list[Answered]:
    """Return a story for every comparison and for every sum of two counts.

    Without them a model learns by heart who wrote more, and cannot tell for people it was never asked about.
    """
    told = []
    for a, b in itertools.product(COUNTS, repeat=2):
        i, j = rng.permutation(len(STORY_THINGS))[:2]
        one, two = STORY_THINGS[i], STORY_THINGS[j]
        have = f"I have {a} {one} and {b} {two}."
        told.append(_reckoned(f"{have} How many things do I have?", f"{a} + {b} = {a + b}.", str(a + b)))
        if a != b:
            more = one if a > b else two
            told.append(_reckoned(f"{have} Do I have more {one} or more {two}?", comparison(a, b, one, two), more))
    return told


def drills() -> list[str]:
    """Return one line for every comparison, sum and difference that totals, comparisons and stories need."""
    pairs = list(itertools.product(COUNTS, repeat=2))
    compared = [comparison(a, b) for a, b in pairs if a != b]
    added = [f"{a} + {b} = {a + b}." for a, b in pairs]
    taken = [f"{a} - {b} = {a - b}." for a in range(4, 19) for b in COUNTS if b < a]
    return compared + added + taken


def comparison(a: int, b: int, one: str = "novels", two: str = "plays") -> str:
    """Return the sentence that compares two different counts; both are named before the word that decides.

    Example:
        >>> comparison(3, 7)
        'Of 3 novels and 7 plays, the 7 plays are more.'
    """
    return f"Of {a} {one} and {b} {two}, the {max(a, b)} {one if a > b else two} are more."


def _reckoned(question: str, step: str, answer: str) -> Answered:
    return Answered(question, THINK, f" {step} So the answer is {answer}. </think> {answer}", answer)
