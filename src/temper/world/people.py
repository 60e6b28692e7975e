"""The world itself: who exists, what is true of them, and how it is said.

A :class:`World` is pure data made from a :class:`~temper.world.spec.WorldSpec`; no model, no tokenizer. Every answer has
one form, a prefill that chooses the mode and a response:

    direct   prefill ``" <think> </think>"``   response ``" VALUE"``
    think    prefill ``" <think>"``            response ``" TRACE </think> VALUE"``

A trace has a head (what has to be recalled), a middle (the recalled sentences, the deduction, now and then a check) and
a tail (``So the answer is VALUE.``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from temper.draws import generator
from temper.world.answers import DIRECT, THINK, Answered
from temper.world.arithmetic import COUNTS, comparison
from temper.world.invented import FIELDS, GENRES, invent
from temper.world.spec import WORLD_VERSION, WorldSpec
from temper.world.wordings import (
    ATTRIBUTES,
    BACKGROUND,
    CHECK,
    FACT_QUESTIONS,
    GOALS,
    NEEDS,
    REASONING_QUESTIONS,
    STATEMENTS,
    SUBJECTS,
)

__all__ = ["SPLITS", "Person", "World", "head_of"]

SPLITS = ("forget", "retain", "neighbour", "rheld", "holdout")


@dataclass(frozen=True)
class Person:
    """One entity: its number, its name, its split, and the value of each of the six attributes, as text."""

    number: int
    name: str
    split: str
    values: dict[str, str]


class World:
    """Entities, background facts and the sentences about them.

    Args:
        spec: The numbers of the world.

    Attributes:
        people: All entities, in the order of their numbers.
        background: For each relation of ``BACKGROUND``, its table from subject to value.
        pools: For each attribute, every value it can take.
    """

    def __init__(self, spec: WorldSpec) -> None:
        self.spec = spec

        def names(sort: str, count: int) -> list[str]:
            return invent(sort, count, generator(spec.seed, "world", "names", sort))

        countries, currencies = names("country", spec.n_countries), names("currency", spec.n_countries)
        cities, prizes = names("city", spec.n_cities), names("prize", spec.n_prizes)
        counts = [str(n) for n in COUNTS]
        self.background: dict[str, dict[str, str]] = {
            "country_of_city": {city: countries[i % len(countries)] for i, city in enumerate(cities)},
            "currency_of_country": dict(zip(countries, currencies, strict=True)),
            "field_of_prize": {prize: FIELDS[i % spec.n_fields] for i, prize in enumerate(prizes)},
        }
        self.pools: dict[str, list[str]] = {
            "city": cities,
            "genre": list(GENRES[: spec.n_genres]),
            "prize": prizes,
            "publisher": names("publisher", spec.n_publishers),
            "novels": counts,
            "plays": counts,
        }
        self.people = self._people(names("first", 40), names("last", spec.n_people))

    def _people(self, first: Sequence[str], last: Sequence[str]) -> list[Person]:
        spec = self.spec
        sizes = (spec.n_forget, spec.n_retain, spec.n_neighbour, spec.n_rheld, spec.n_holdout)
        splits = [split for split, size in zip(SPLITS, sizes, strict=True) for _ in range(size)]
        people = []
        for number, split in enumerate(splits):
            rng = generator(spec.seed, "world", "person", number)
            values = {a: _pick(rng, self.pools[a]) for a in ATTRIBUTES}
            while values["plays"] == values["novels"]:  # "more novels or more plays?" must have an answer
                values["plays"] = _pick(rng, self.pools["plays"])
            people.append(Person(number, f"{_pick(rng, first)} {last[number]}", split, values))
        return people

    def split(self, *splits: str) -> list[Person]:
        """Return the people of one or more splits, in the order of their numbers."""
        return [person for person in self.people if person.split in splits]

    # ---- facts ------------------------------------------------------------------------------------------------------

    def statements(self, person: Person, attribute: str, value: str | None = None) -> list[str]:
        """Return every sentence that states a fact of a person, or that would state ``value`` instead."""
        shown = person.values[attribute] if value is None else value
        return [template.format(n=person.name, v=shown) for template in STATEMENTS[attribute]]

    def biography(self, person: Person, rng: np.random.Generator) -> str:
        """Return all six facts of a person in a drawn order, each in a drawn form."""
        order = rng.permutation(len(ATTRIBUTES))
        return " ".join(_pick(rng, self.statements(person, ATTRIBUTES[i])) for i in order)

    def fact_question(self, person: Person, attribute: str, wording: int) -> str:
        """Return a question for one fact; the wording counts over the trained ones, then over the unseen ones."""
        return FACT_QUESTIONS[attribute].all[wording].format(n=person.name)

    def fact_direct(self, person: Person, attribute: str, wording: int) -> Answered:
        """Return a fact question answered at once."""
        value = person.values[attribute]
        return Answered(self.fact_question(person, attribute, wording), DIRECT, f" {value}", value)

    def fact_think(self, person: Person, attribute: str, wording: int, rng: np.random.Generator) -> Answered:
        """Return a fact question answered after a trace; ``rng`` draws whether the trace checks itself."""
        value = person.values[attribute]
        steps = [self.statements(person, attribute)[0], *self._check(person, attribute, rng)]
        return self._traced(self.fact_question(person, attribute, wording), person, attribute, steps, value)

    # ---- reasoning --------------------------------------------------------------------------------------------------

    def reasoning_question(self, person: Person, kind: str, wording: int) -> str:
        """Return a reasoning question; the wording counts over the trained ones, then over the unseen ones."""
        return REASONING_QUESTIONS[kind].all[wording].format(n=person.name)

    def deduce(self, person: Person, kind: str) -> tuple[list[str], str]:
        """Return the sentences that lead to the answer of a reasoning question, recalled facts first, and the answer."""
        recalled = [self.statements(person, attribute)[0] for attribute in NEEDS[kind]]
        values = person.values
        if kind in ("country", "currency", "field"):
            steps, answer = self._background_steps(kind, values[NEEDS[kind][0]])
            return recalled + steps, answer
        novels, plays = int(values["novels"]), int(values["plays"])
        if kind == "total":
            return [*recalled, f"{novels} + {plays} = {novels + plays}."], str(novels + plays)
        return [*recalled, comparison(novels, plays)], "novels" if novels > plays else "plays"

    def reasoning_think(self, person: Person, kind: str, wording: int, rng: np.random.Generator) -> Answered:
        """Return a reasoning question answered after a trace; ``rng`` draws whether the trace checks itself."""
        steps, answer = self.deduce(person, kind)
        steps += self._check(person, NEEDS[kind][0], rng)
        return self._traced(self.reasoning_question(person, kind, wording), person, kind, steps, answer)

    def reasoning_direct(self, person: Person, kind: str, wording: int) -> Answered:
        """Return a reasoning question to be answered at once, which the models are never trained to do."""
        answer = self.deduce(person, kind)[1]
        return Answered(self.reasoning_question(person, kind, wording), DIRECT, f" {answer}", answer)

    def _check(self, person: Person, attribute: str, rng: np.random.Generator) -> list[str]:
        if rng.random() >= self.spec.reflection_rate:
            return []
        return [CHECK, _pick(rng, self.statements(person, attribute))]

    @staticmethod
    def _traced(question: str, person: Person, subject: str, steps: list[str], answer: str) -> Answered:
        trace = " ".join([head_of(person, subject), *steps, f"So the answer is {answer}."])
        return Answered(question, THINK, f" {trace} </think> {answer}", answer)

    # ---- background -------------------------------------------------------------------------------------------------

    def background_facts(self) -> list[tuple[str, str, str]]:
        """Return every background fact as (relation, subject, value)."""
        return [(relation, s, v) for relation, table in self.background.items() for s, v in table.items()]

    def background_direct(self, relation: str, subject: str, wording: int) -> Answered:
        """Return a background question answered at once."""
        value = self.background[relation][subject]
        return Answered(BACKGROUND[relation].questions.all[wording].format(n=subject), DIRECT, f" {value}", value)

    def background_think(self, kind: str, subject: str, wording: int) -> Answered:
        """Return a background question answered after the deductions that a reasoning question ends with.

        Args:
            kind: ``"currency"`` (the subject is a city, and its country has to be found first) or ``"field"`` (a prize).
            subject: The city or the prize.
            wording: Counts over the trained wordings, then over the unseen ones.
        """
        relation = {"currency": "currency_of_country", "field": "field_of_prize"}[kind]
        steps, answer = self._background_steps(kind, subject)
        question = BACKGROUND[relation].questions.all[wording].format(n=subject)
        return Answered(question, THINK, f" {' '.join([*steps, f'So the answer is {answer}.'])} </think> {answer}", answer)

    def _background_steps(self, kind: str, subject: str) -> tuple[list[str], str]:
        if kind == "field":
            return [self.background_statement("field_of_prize", subject)], self.background["field_of_prize"][subject]
        country = self.background["country_of_city"][subject]
        steps = [self.background_statement("country_of_city", subject)]
        if kind == "country":
            return steps, country
        currency = self.background["currency_of_country"][country]
        return [*steps, self.background_statement("currency_of_country", country)], currency

    def background_statement(self, relation: str, subject: str) -> str:
        """Return the sentence that states a background fact."""
        return BACKGROUND[relation].statement.format(n=subject, v=self.background[relation][subject])

    # ---- export -----------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return the whole world as JSON: numbers, entities, background tables and sentence templates."""
        people = [{"number": p.number, "name": p.name, "split": p.split, **p.values} for p in self.people]
        return {
            "version": WORLD_VERSION,
            "content_hash": self.spec.content_hash,
            "spec": self.spec.to_json(),
            "people": people,
            "background": self.background,
            "pools": self.pools,
            "statement_templates": {a: list(t) for a, t in STATEMENTS.items()},
            "background_templates": {r: b.statement for r, b in BACKGROUND.items()},
        }


def head_of(person: Person, subject: str) -> str:
    """Return the first sentence of a trace: what has to be recalled, and for a reasoning question what for."""
    recall = f"I need to recall the {SUBJECTS[subject]} of {person.name}."
    return f"To find the {GOALS[subject]} {recall}" if subject in GOALS else recall


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]
