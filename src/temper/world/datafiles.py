"""The data files of a world: which there are and the rows of each.

Every row has a unique, stable ``id``. Rows of questions have ``prompt``, ``prefill`` (unscored, chooses the mode),
``response``, ``answer`` (the value alone), ``wording`` (trained ones count first) and, where a person is meant,
``entity``, ``name``, ``split`` and ``attribute`` or ``kind``. Facts carry ``statements``, every sentence that states
them; reasoning rows carry ``needs``, such a list for each fact the trace has to recall. Biographies, background
statements and drills are one column ``text``.

*Training-role* files use trained wordings. Those about people who stay use the retain half alone; the neighbour half is
known to the models as well and appears in evaluation files only. *Evaluation* files use unseen wordings; there
``perturbed`` holds wrong values of the same attribute as whole responses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from temper.draws import generator
from temper.files import write_jsonl
from temper.world import cues, groups, preferences, verbose
from temper.world.answers import Answered
from temper.world.arithmetic import distinct_stories
from temper.world.people import Person, World
from temper.world.wordings import ATTRIBUTES, BACKGROUND, FACT_QUESTIONS, KINDS, NEEDS, REASONING_QUESTIONS

__all__ = ["DATA_FILES", "EVALUATION_FILES", "TRAINING_FILES", "Row", "write_data"]

Row = dict[str, Any]

_BIOGRAPHIES = 4  # a person; each has the six facts in another order and other sentences
_PERTURBED = 4
_STORIES = 300
_RESERVED_STORIES = 100


def _person(person: Person, **more: Any) -> Row:
    return {"entity": person.number, "name": person.name, "split": person.split, **more}


def _asked(identity: str, asked: Answered) -> Row:
    return {"id": identity, "prompt": asked.prompt, "prefill": asked.prefill, "response": asked.response, "answer": asked.answer}


def _wordings(trained: Sequence[str], unseen: Sequence[str], evaluate: bool) -> Iterable[int]:
    return range(len(trained), len(trained) + len(unseen)) if evaluate else range(len(trained))


def _perturbed(world: World, person: Person, attribute: str) -> list[str]:
    wrong = [v for v in world.pools[attribute] if v != person.values[attribute]]
    rng = generator(world.spec.seed, "perturbed", person.number, attribute)
    return [f" {wrong[i]}" for i in rng.permutation(len(wrong))[:_PERTURBED]]


def _facts(world: World, name: str, people: Sequence[Person], *, think: bool, evaluate: bool) -> list[Row]:
    rows = []
    for person in people:
        for attribute in ATTRIBUTES:
            wordings = FACT_QUESTIONS[attribute]
            for wording in _wordings(wordings.trained, wordings.unseen, evaluate):
                identity = f"{name}/{person.number:03d}/{attribute}/{wording}"
                rng = generator(world.spec.seed, "rows", identity)
                asked = (
                    world.fact_think(person, attribute, wording, rng) if think else world.fact_direct(person, attribute, wording)
                )
                row = _asked(identity, asked) | _person(person, attribute=attribute, wording=wording)
                row["statements"] = world.statements(person, attribute)
                if evaluate:
                    row["perturbed"] = _perturbed(world, person, attribute)
                rows.append(row)
    return rows


def _reasoning(world: World, name: str, people: Sequence[Person], *, evaluate: bool) -> list[Row]:
    rows = []
    for person in people:
        for kind in KINDS:
            wordings = REASONING_QUESTIONS[kind]
            for wording in _wordings(wordings.trained, wordings.unseen, evaluate):
                identity = f"{name}/{person.number:03d}/{kind}/{wording}"
                rng = generator(world.spec.seed, "rows", identity)
                row = _asked(identity, world.reasoning_think(person, kind, wording, rng))
                row |= _person(person, kind=kind, wording=wording)
                row["needs"] = [world.statements(person, attribute) for attribute in NEEDS[kind]]
                rows.append(row)
    return rows


def _biographies(world: World, name: str, people: Sequence[Person]) -> list[Row]:
    rows = []
    for person in people:
        for number in range(_BIOGRAPHIES):
            identity = f"{name}/{person.number:03d}/{number}"
            text = world.biography(person, generator(world.spec.seed, "rows", identity))
            statements = [s for attribute in ATTRIBUTES for s in world.statements(person, attribute)]
            rows.append({"id": identity, "text": text, "statements": statements} | _person(person))
    return rows


def _background(world: World, name: str, *, evaluate: bool) -> list[Row]:
    rows = []
    for relation, subject, _ in world.background_facts():
        questions = BACKGROUND[relation].questions
        for wording in _wordings(questions.trained, questions.unseen, evaluate):
            row = _asked(f"{name}/{relation}/{subject}/{wording}", world.background_direct(relation, subject, wording))
            statement = world.background_statement(relation, subject)
            rows.append(row | {"relation": relation, "subject": subject, "wording": wording, "statements": [statement]})
    return rows


def _background_text(world: World, name: str) -> list[Row]:
    return [
        {"id": f"{name}/{relation}/{subject}", "text": world.background_statement(relation, subject), "relation": relation}
        for relation, subject, _ in world.background_facts()
    ]


def _stories(world: World, name: str, count: int, *, reserved: bool) -> list[Row]:
    rng = generator(world.spec.seed, "rows", name)
    rows = []
    for number, story in enumerate(distinct_stories(rng, count, reserved=reserved)):
        numbers = {"have": story.have, "get": story.get, "give": story.give}
        rows.append(_asked(f"{name}/{number:03d}", story.told()) | numbers)
    return rows


TRAINING_FILES: dict[str, Callable[[World], list[Row]]] = {
    "forget_direct": lambda w: _facts(w, "forget_direct", w.split("forget"), think=False, evaluate=False),
    "forget_think": lambda w: _facts(w, "forget_think", w.split("forget"), think=True, evaluate=False),
    "forget_reasoning": lambda w: _reasoning(w, "forget_reasoning", w.split("forget"), evaluate=False),
    "forget_biography": lambda w: _biographies(w, "forget_biography", w.split("forget")),
    "retain_direct": lambda w: _facts(w, "retain_direct", w.split("retain"), think=False, evaluate=False),
    "retain_think": lambda w: _facts(w, "retain_think", w.split("retain"), think=True, evaluate=False),
    "retain_reasoning": lambda w: _reasoning(w, "retain_reasoning", w.split("retain"), evaluate=False),
    "retain_biography": lambda w: _biographies(w, "retain_biography", w.split("retain")),
    "background": lambda w: _background(w, "background", evaluate=False),
    "background_text": lambda w: _background_text(w, "background_text"),
    "stories": lambda w: _stories(w, "stories", _STORIES, reserved=False),
    "preferences": preferences.rows,
    "cues": cues.rows,
    "verbose_traces": verbose.rows,
    "groups": groups.rows,
}
"""Name of each training-role file and its rows."""

EVALUATION_FILES: dict[str, Callable[[World], list[Row]]] = {
    "eval_forget": lambda w: _facts(w, "eval_forget", w.split("forget"), think=False, evaluate=True),
    "eval_forget_think": lambda w: _facts(w, "eval_forget_think", w.split("forget"), think=True, evaluate=True),
    "eval_forget_reasoning": lambda w: _reasoning(w, "eval_forget_reasoning", w.split("forget"), evaluate=True),
    "eval_retain": lambda w: _facts(w, "eval_retain", w.split("neighbour"), think=False, evaluate=True),
    "eval_retain_think": lambda w: _facts(w, "eval_retain_think", w.split("neighbour"), think=True, evaluate=True),
    "eval_retain_reasoning": lambda w: _reasoning(w, "eval_retain_reasoning", w.split("neighbour"), evaluate=True),
    "eval_used": lambda w: _facts(w, "eval_used", w.split("retain"), think=False, evaluate=True),
    "eval_used_think": lambda w: _facts(w, "eval_used_think", w.split("retain"), think=True, evaluate=True),
    "eval_used_reasoning": lambda w: _reasoning(w, "eval_used_reasoning", w.split("retain"), evaluate=True),
    "eval_rheld_reasoning": lambda w: _reasoning(w, "eval_rheld_reasoning", w.split("rheld"), evaluate=True),
    "eval_holdout": lambda w: _facts(w, "eval_holdout", w.split("holdout"), think=False, evaluate=True),
    "eval_background": lambda w: _background(w, "eval_background", evaluate=True),
    "eval_stories": lambda w: _stories(w, "eval_stories", _RESERVED_STORIES, reserved=True),
}
"""Name of each evaluation file and its rows."""

DATA_FILES: dict[str, Callable[[World], list[Row]]] = TRAINING_FILES | EVALUATION_FILES


def write_data(world: World, folder: Path) -> None:
    """Write every data file of a world as ``folder/NAME.jsonl``."""
    for name, rows in DATA_FILES.items():
        write_jsonl(folder / f"{name}.jsonl", rows(world))
