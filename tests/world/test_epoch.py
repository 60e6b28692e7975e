"""What a model is trained on, and what it is never shown."""

from __future__ import annotations

import pytest

from temper.world.arithmetic import Story
from temper.world.epoch import Document, epoch
from temper.world.people import World
from temper.world.wordings import ATTRIBUTES, BACKGROUND, FACT_QUESTIONS, KINDS, REASONING_QUESTIONS


def _texts(documents: list[Document]) -> list[str]:
    return [d if isinstance(d, str) else f"{d.prompt}{d.prefill}{d.response}" for d in documents]


@pytest.fixture(scope="module")
def texts(default_world: World) -> str:
    return "\n".join(text for number in range(6) for text in _texts(epoch(default_world, number)))


def test_an_epoch_repeats_exactly_and_the_next_one_differs(world: World) -> None:
    assert epoch(world, 4) == epoch(world, 4)
    assert epoch(world, 4) != epoch(world, 5)


def test_holdout_people_are_never_named(default_world: World, texts: str) -> None:
    assert not [p.name for p in default_world.split("holdout") if p.name in texts]


def test_everyone_else_is_named(default_world: World, texts: str) -> None:
    assert all(p.name in texts for p in default_world.people if p.split != "holdout")


def test_the_gold_epoch_names_no_forget_person_and_is_otherwise_the_same(default_world: World) -> None:
    names = [p.name for p in default_world.split("forget")]
    original, gold = epoch(default_world, 0), epoch(default_world, 0, without=("forget",))
    assert not [t for t in _texts(gold) if any(name in t for name in names)]
    assert gold == [d for d, t in zip(original, _texts(original), strict=True) if not any(name in t for name in names)]


def test_no_unseen_wording_is_trained(default_world: World, texts: str) -> None:
    for person in default_world.people:
        asked = [default_world.fact_question(person, a, w) for a in ATTRIBUTES for w in (6, 7)]
        asked += [default_world.reasoning_question(person, k, w) for k in KINDS for w in (6, 7)]
        assert not [q for q in asked if q in texts]
    for relation, subject, _ in default_world.background_facts():
        unseen = default_world.background_direct(relation, subject, len(BACKGROUND[relation].questions.trained))
        assert unseen.prompt not in texts


def test_every_trained_wording_is_used(default_world: World, texts: str) -> None:
    person = default_world.split("retain")[0]
    many = "\n".join(t for number in range(60) for t in _texts(epoch(default_world, number)) if person.name in t)
    facts = [(a, w) for a in ATTRIBUTES for w in range(len(FACT_QUESTIONS[a].trained))]
    assert all(default_world.fact_question(person, a, w) in many for a, w in facts)
    kinds = [(k, w) for k in KINDS for w in range(len(REASONING_QUESTIONS[k].trained))]
    assert all(default_world.reasoning_question(person, k, w) in many for k, w in kinds)


def test_no_reasoning_question_about_rheld_people_is_trained(default_world: World, texts: str) -> None:
    for person in default_world.split("rheld"):
        assert not [k for k in KINDS for w in range(6) if default_world.reasoning_question(person, k, w) in texts]


def test_no_reserved_story_is_trained(default_world: World, texts: str) -> None:
    for have in range(2, 10):
        for get in range(2, 10):
            for give in range(2, min(10, have + get)):
                told = Story(have, get, give, "apples")
                assert not (told.reserved and told.told().prompt in texts)
