"""The world's facts, sentences and traces."""

from __future__ import annotations

import re

import pytest

from temper.draws import generator
from temper.errors import InputError
from temper.world.answers import DIRECT, THINK
from temper.world.people import World
from temper.world.spec import SIZES, world_spec
from temper.world.wordings import ATTRIBUTES, BACKGROUND, FACT_QUESTIONS, KINDS, NEEDS, REASONING_QUESTIONS


def test_the_same_seed_gives_the_same_world() -> None:
    assert World(world_spec("default", 3)).to_json() == World(world_spec("default", 3)).to_json()


def test_another_seed_gives_other_people() -> None:
    first, second = (World(world_spec("default", seed)) for seed in (0, 1))
    assert [p.name for p in first.people] != [p.name for p in second.people]
    assert first.background != second.background


def test_the_content_hash_depends_on_every_number() -> None:
    spec = world_spec("small", 0)
    specs = [spec, spec.shortened(7), world_spec("small", 1), world_spec("default", 0)]
    assert len({s.content_hash for s in specs}) == 4


def test_a_spec_comes_back_from_its_json() -> None:
    spec = world_spec("default", 2)
    assert type(spec)(**spec.to_json()) == spec


def test_an_unknown_size_names_the_nearest_one() -> None:
    with pytest.raises(InputError, match="did you mean 'small'"):
        world_spec("smal", 0)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(InputError, match="-1"):
        world_spec("small", -1)


@pytest.mark.parametrize("size", SIZES)
def test_split_sizes_are_those_of_the_spec_and_the_splits_are_disjoint(size: str) -> None:
    spec = world_spec(size, 0)
    world = World(spec)
    counts = {s: len(world.split(s)) for s in ("forget", "retain", "neighbour", "rheld", "holdout")}
    assert counts == {
        "forget": spec.n_forget,
        "retain": spec.n_retain,
        "neighbour": spec.n_neighbour,
        "rheld": spec.n_rheld,
        "holdout": spec.n_holdout,
    }
    assert sum(counts.values()) == len(world.people) == spec.n_people


@pytest.mark.parametrize("seed", range(3))
def test_last_names_are_unique_and_no_name_means_two_things(seed: int) -> None:
    world = World(world_spec("default", seed))
    last = [p.name.split()[1] for p in world.people]
    assert len(set(last)) == len(last)
    values = [*world.pools["city"], *world.pools["prize"], *world.pools["publisher"], *world.pools["genre"]]
    others = list(world.background["currency_of_country"]) + list(world.background["currency_of_country"].values())
    everything = [*last, *{p.name.split()[0] for p in world.people}, *values, *others]
    assert len({w.lower() for w in everything}) == len(everything)


def test_background_tables_cover_every_value_and_share_evenly(default_world: World) -> None:
    tables = default_world.background
    assert set(tables["country_of_city"]) == set(default_world.pools["city"])
    assert set(tables["field_of_prize"]) == set(default_world.pools["prize"])
    assert set(tables["country_of_city"].values()) == set(tables["currency_of_country"])
    assert len(set(tables["currency_of_country"].values())) == default_world.spec.n_countries
    countries = list(tables["country_of_city"].values())
    assert {countries.count(c) for c in countries} == {default_world.spec.n_cities // default_world.spec.n_countries}


def test_novels_and_plays_never_tie(default_world: World) -> None:
    assert all(p.values["novels"] != p.values["plays"] for p in default_world.people)


def test_unseen_wordings_are_no_trained_wording_of_any_question() -> None:
    questions = [*FACT_QUESTIONS.values(), *REASONING_QUESTIONS.values(), *(b.questions for b in BACKGROUND.values())]
    trained = [text for q in questions for text in q.trained]
    unseen = [text for q in questions for text in q.unseen]
    assert len(set(trained + unseen)) == len(trained) + len(unseen)


def test_every_word_of_an_unseen_wording_occurs_in_a_trained_one() -> None:
    questions = [*FACT_QUESTIONS.values(), *REASONING_QUESTIONS.values(), *(b.questions for b in BACKGROUND.values())]
    known = {word for q in questions for text in q.trained for word in re.findall(r"\w+", text)}
    assert {word for q in questions for text in q.unseen for word in re.findall(r"\w+", text)} <= known


@pytest.mark.parametrize("kind", KINDS)
def test_a_reasoning_trace_states_true_facts_and_ends_in_its_answer(default_world: World, kind: str) -> None:
    for person in default_world.people:
        told = default_world.reasoning_think(person, kind, 0, generator(0, "test", person.number))
        trace, answer = told.response.split("</think>")
        assert told.prefill == THINK
        assert answer.strip() == told.answer
        assert trace.strip().endswith(f"So the answer is {told.answer}.")
        for attribute in NEEDS[kind]:
            assert default_world.statements(person, attribute)[0] in trace
        for sum_ in re.findall(r"(\d+) \+ (\d+) = (\d+)", trace):
            assert int(sum_[0]) + int(sum_[1]) == int(sum_[2])
        for a, b, larger, noun in re.findall(r"Of (\d+) novels and (\d+) plays, the (\d+) (\w+) are more", trace):
            assert max(int(a), int(b)) == int(larger)
            assert noun == told.answer


def test_reasoning_answers_follow_from_the_tables(default_world: World) -> None:
    for person in default_world.people:
        country = default_world.background["country_of_city"][person.values["city"]]
        novels, plays = int(person.values["novels"]), int(person.values["plays"])
        expected = {
            "country": country,
            "currency": default_world.background["currency_of_country"][country],
            "total": str(novels + plays),
            "more": "novels" if novels > plays else "plays",
            "field": default_world.background["field_of_prize"][person.values["prize"]],
        }
        assert {kind: default_world.deduce(person, kind)[1] for kind in KINDS} == expected


def test_about_three_traces_in_ten_check_themselves(default_world: World) -> None:
    texts = [
        default_world.fact_think(p, a, 0, generator(0, "check", p.number, a)).response
        for p in default_world.people
        for a in ATTRIBUTES
    ]
    rate = sum("Wait, let me check." in text for text in texts) / len(texts)
    assert 0.25 < rate < 0.35


def test_a_direct_answer_is_the_value_alone(world: World) -> None:
    person = world.people[0]
    asked = world.fact_direct(person, "city", 0)
    assert (asked.prefill, asked.response) == (DIRECT, f" {person.values['city']}")
    assert person.name in asked.prompt


def test_background_questions_with_a_trace_follow_from_the_tables(world: World) -> None:
    city, country = next(iter(world.background["country_of_city"].items()))
    currency = world.background["currency_of_country"][country]
    asked = world.background_think("currency", city, 0)
    assert asked.prompt == f"Which currency is used in {city}?"
    assert asked.response == (
        f" {city} is in {country}. {country} uses the {currency}. So the answer is {currency}. </think> {currency}"
    )


def test_statements_of_a_wrong_value_differ_from_the_true_ones(world: World) -> None:
    person = world.people[0]
    wrong = next(v for v in world.pools["city"] if v != person.values["city"])
    assert not set(world.statements(person, "city")) & set(world.statements(person, "city", wrong))
