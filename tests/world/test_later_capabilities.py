"""Preference pairs, values, cue sentences, verbose traces and groups."""

from __future__ import annotations

import math

import pytest

from temper.world import cues, groups, preferences, verbose
from temper.world.people import World
from temper.world.preferences import OPENINGS
from temper.world.values import brief, helpful, polite, value_of
from temper.world.wordings import ATTRIBUTES


def test_a_chosen_reply_is_polite_and_tells_at_least_three_true_facts(world: World) -> None:
    for row in preferences.rows(world):
        value = value_of(row["chosen"], world, world.people[row["entity"]])
        assert value["polite"] == 1.0
        assert value["helpful"] >= 0.5


def test_a_rejected_reply_is_curt_and_tells_less(world: World) -> None:
    for row in preferences.rows(world):
        person = world.people[row["entity"]]
        rejected = value_of(row["rejected"], world, person)
        assert rejected["polite"] == 0.0
        assert rejected["helpful"] <= 1 / 6
        assert rejected["helpful"] < helpful(row["chosen"], world, person)


def test_a_wrong_pair_states_a_false_fact(world: World) -> None:
    for row in (r for r in preferences.rows(world) if r["fault"] == "wrong"):
        person = world.people[row["entity"]]
        wrong = [s for a in ATTRIBUTES for v in world.pools[a] if v != person.values[a] for s in world.statements(person, a, v)]
        assert any(s in row["rejected"] for s in wrong)


def test_all_six_facts_are_fully_helpful(world: World) -> None:
    person = world.people[0]
    assert helpful(" ".join(world.statements(person, a)[1] for a in ATTRIBUTES), world, person) == 1.0


def test_a_false_fact_is_not_helpful(world: World) -> None:
    person = world.people[0]
    wrong = next(v for v in world.pools["genre"] if v != person.values["genre"])
    assert helpful(world.statements(person, "genre", wrong)[0], world, person) == 0.0


def test_brief_falls_by_a_factor_e_every_25_words() -> None:
    assert brief("") == 1.0
    assert brief("word " * 25) == pytest.approx(math.exp(-1))


def test_politeness_is_in_the_first_words() -> None:
    assert polite(f" {OPENINGS[0]} The rest.") == 1.0
    assert polite(f"The rest. {OPENINGS[0]}") == 0.0


def test_cue_sentences_have_balanced_labels_and_about_a_tenth_is_flipped(world: World) -> None:
    rows = cues.rows(world)
    assert 0.4 < sum(r["label"] for r in rows) / len(rows) < 0.6
    assert 0.05 < sum(r["flipped"] for r in rows) / len(rows) < 0.15
    assert all(r["response"] == f" {r['labels'][r['label']]}" for r in rows)


def test_an_unflipped_review_has_a_majority_of_cues_of_its_label(world: World) -> None:
    for row in cues.rows(world):
        meant = row["label"] ^ row["flipped"]
        votes = [sum(cue in row["text"] for cue in side) for side in cues.CUES]
        assert votes[meant] >= 3
        assert sum(votes) == 4


def test_the_parts_of_a_verbose_trace_make_up_its_response(world: World) -> None:
    for row in verbose.rows(world):
        assert row["response"] == f" {' '.join(p['text'] for p in row['parts'])} </think> {row['answer']}"
        order = [p["part"] for p in row["parts"]]
        assert order == sorted(order, key=["head", "middle", "tail"].index)
        assert order[0] == "head"
        assert order[-1] == "tail"


def test_a_verbose_trace_without_its_redundant_parts_is_the_short_one(world: World) -> None:
    for row in verbose.rows(world):
        person = world.people[row["entity"]]
        kept = [p["text"] for p in row["parts"] if p["role"] not in verbose.REDUNDANT]
        assert kept[1:-1] == world.deduce(person, row["kind"])[0]
        assert len(kept) < len(row["parts"])


def test_the_groups_differ_in_their_rate_of_the_label(default_world: World) -> None:
    rows = groups.rows(default_world)
    rates = [sum(r["label"] for r in rows if r["group"] == g) / sum(r["group"] == g for r in rows) for g in groups.GROUPS]
    assert len(rows) == len(default_world.people)
    assert rates[0] - rates[1] > 0.1
