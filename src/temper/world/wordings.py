"""Every sentence and question of the world, as templates.

``{n}`` is a person's name, ``{v}`` a value. A question has *trained* wordings, which the models and the training-role
files use, and *unseen* ones, which only evaluation asks. An unseen wording is made of words that tell its kind in the
trained wordings too: it tests whether the question is understood, not whether a rare word was met.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ATTRIBUTES",
    "BACKGROUND",
    "CHECK",
    "FACT_QUESTIONS",
    "GOALS",
    "KINDS",
    "NEEDS",
    "OPEN_QUESTION",
    "REASONING_QUESTIONS",
    "STATEMENTS",
    "SUBJECTS",
    "Background",
    "Wordings",
]

ATTRIBUTES = ("city", "genre", "prize", "publisher", "novels", "plays")
KINDS = ("country", "currency", "total", "more", "field")

NEEDS: dict[str, tuple[str, ...]] = {
    "country": ("city",),
    "currency": ("city",),
    "total": ("novels", "plays"),
    "more": ("novels", "plays"),
    "field": ("prize",),
}
"""The facts about a person that a kind of reasoning question recalls."""

SUBJECTS: dict[str, str] = {
    "city": "birthplace", "genre": "genre", "prize": "prize", "publisher": "publisher", "novels": "novels", "plays": "plays",
    "country": "birthplace", "currency": "birthplace", "total": "novels and plays", "more": "novels and plays", "field": "prize",
}  # fmt: skip
"""What a trace says it has to recall, by attribute or kind."""

GOALS: dict[str, str] = {
    "country": "home country", "currency": "currency", "total": "total", "more": "larger number", "field": "field",
}  # fmt: skip
"""What a trace of a reasoning question says it has to find. Said at the start, it settles the kind next to the question."""

CHECK = "Wait, let me check."
"""The words that open a reflection inside a trace."""

OPEN_QUESTION = "What is {n} known for?"


@dataclass(frozen=True)
class Wordings:
    """The wordings of one question. Index ``i`` runs over the trained ones first, then over the unseen ones."""

    trained: tuple[str, ...]
    unseen: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """Trained wordings, then unseen ones."""
        return self.trained + self.unseen


STATEMENTS: dict[str, tuple[str, ...]] = {
    "city": ("{n} was born in {v}.", "{n} comes from the town of {v}.", "The birthplace of {n} is {v}."),
    "genre": ("{n} writes {v} books.", "The genre of {n} is {v}.", "{n} is known for {v} stories."),
    "prize": ("{n} won the {v} prize.", "The {v} prize went to {n}.", "{n} was honoured with the {v} prize."),
    "publisher": ("{n} publishes with {v}.", "{v} is the publisher of {n}.", "The books of {n} appear at {v}."),
    "novels": ("{n} wrote {v} novels.", "There are {v} novels by {n}.", "{n} has finished {v} novels."),
    "plays": ("{n} wrote {v} plays.", "There are {v} plays by {n}.", "{n} has staged {v} plays."),
}
"""Every sentence that states a fact. A trace recalls a fact in the first form."""

FACT_QUESTIONS: dict[str, Wordings] = {
    "city": Wordings(
        (
            "Where was {n} born?",
            "What is the birthplace of {n}?",
            "From which town does {n} come?",
            "Which town is the birthplace of {n}?",
            "{n} was born in which town?",
            "Tell me where {n} was born.",
        ),
        ("In which town was {n} born?", "Which town does {n} come from?"),
    ),
    "genre": Wordings(
        (
            "What genre does {n} write?",
            "Which genre is {n} known for?",
            "What kind of books does {n} write?",
            "{n} writes books of which genre?",
            "What kind of stories is {n} known for?",
            "Tell me the genre of {n}.",
        ),
        ("What is the genre of {n}?", "For which genre is {n} known?"),
    ),
    "prize": Wordings(
        (
            "Which prize did {n} win?",
            "What prize went to {n}?",
            "With which prize was {n} honoured?",
            "{n} won which prize?",
            "What is the prize of {n}?",
            "Tell me the prize that {n} won.",
        ),
        ("What is the prize that {n} won?", "{n} was honoured with which prize?"),
    ),
    "publisher": Wordings(
        (
            "Who publishes {n}?",
            "What is the publisher of {n}?",
            "Where do the books of {n} appear?",
            "With which publisher does {n} publish?",
            "Who publishes the books of {n}?",
            "Tell me the publisher of {n}.",
        ),
        ("Who is the publisher of {n}?", "Which publisher does {n} publish with?"),
    ),
    "novels": Wordings(
        (
            "How many novels did {n} write?",
            "What is the number of novels by {n}?",
            "How many novels has {n} finished?",
            "{n} wrote how many novels?",
            "How many novels by {n} are there?",
            "Tell me the number of novels by {n}.",
        ),
        ("How many novels are there by {n}?", "How many novels does {n} have?"),
    ),
    "plays": Wordings(
        (
            "How many plays did {n} write?",
            "What is the number of plays by {n}?",
            "How many plays has {n} staged?",
            "{n} wrote how many plays?",
            "How many plays by {n} are there?",
            "Tell me the number of plays by {n}.",
        ),
        ("How many plays are there by {n}?", "How many plays does {n} have?"),
    ),
}

REASONING_QUESTIONS: dict[str, Wordings] = {
    "country": Wordings(
        (
            "In which country was {n} born?",
            "What is the home country of {n}?",
            "{n} was born in which country?",
            "Tell me the home country of {n}.",
            "From which country does {n} come?",
            "Which country is the home of {n}?",
        ),
        ("Which country does {n} come from?", "Which country was {n} born in?"),
    ),
    "currency": Wordings(
        (
            "Which currency is used where {n} was born?",
            "What money do people pay with in the home country of {n}?",
            "In the home country of {n}, which currency is used?",
            "With what currency do people pay where {n} comes from?",
            "Tell me the currency of the home country of {n}.",
            "What is the currency of the country where {n} was born?",
        ),
        ("What is the currency of the home country of {n}?", "What currency do people pay with where {n} was born?"),
    ),
    "total": Wordings(
        (
            "How many works did {n} write in all?",
            "What is the number of novels and plays by {n} together?",
            "How many novels and plays did {n} write together?",
            "What is the number of works by {n} in all?",
            "Tell me the number of novels and plays by {n} in all.",
            "How many works are there by {n} together?",
        ),
        ("How many novels and plays are there by {n} in all?", "How many novels and plays did {n} write in all?"),
    ),
    "more": Wordings(
        (
            "Did {n} write more novels or more plays?",
            "Does {n} have more novels or more plays?",
            "Of novels or plays, which did {n} write more?",
            "Are there more novels or more plays by {n}?",
            "Tell me whether {n} wrote more novels or more plays.",
            "Which are there more of by {n}, novels or plays?",
        ),
        ("Which did {n} write more of, novels or plays?", "Tell me whether there are more novels or more plays by {n}."),
    ),
    "field": Wordings(
        (
            "For which field is the prize of {n} given?",
            "What field does the prize won by {n} honour?",
            "Which field does the prize of {n} honour?",
            "What is the field of the prize that {n} won?",
            "Tell me the field of the prize won by {n}.",
            "The prize of {n} is given for which field?",
        ),
        ("Which field is the prize won by {n} given for?", "What field is the prize of {n} given for?"),
    ),
}


@dataclass(frozen=True)
class Background:
    """Facts that everyone may know: ``{n}`` is the subject (a city, a country, a prize), ``{v}`` the value."""

    statement: str
    questions: Wordings


BACKGROUND: dict[str, Background] = {
    "country_of_city": Background(
        "{n} is in {v}.",
        Wordings(
            ("In which country is {n}?", "{n} is in which country?", "Tell me the country of {n}."),
            ("Which country is {n} in?",),
        ),
    ),
    "currency_of_country": Background(
        "{n} uses the {v}.",
        Wordings(
            ("Which currency is used in {n}?", "What money do people pay with in {n}?", "Tell me the currency of {n}."),
            ("What is the currency of {n}?",),
        ),
    ),
    "field_of_prize": Background(
        "The {n} prize is for {v}.",
        Wordings(
            (
                "For which field is the {n} prize given?",
                "What field does the {n} prize honour?",
                "Tell me the field of the {n} prize.",
            ),
            ("Which field is the {n} prize given for?",),
        ),
    ),
}
