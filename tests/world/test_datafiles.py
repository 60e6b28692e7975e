"""The rows of the data files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from temper.world.answers import DIRECT, THINK
from temper.world.datafiles import DATA_FILES, EVALUATION_FILES, TRAINING_FILES, Row, write_data
from temper.world.people import World
from temper.world.spec import world_spec
from temper.world.wordings import ATTRIBUTES, BACKGROUND, FACT_QUESTIONS, KINDS, NEEDS, REASONING_QUESTIONS


@pytest.fixture(scope="module")
def files(world: World) -> dict[str, list[Row]]:
    return {name: rows(world) for name, rows in DATA_FILES.items()}


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_data(World(world_spec("small", seed)), tmp_path / folder)
    for name in DATA_FILES:
        first, again, other = ((tmp_path / folder / f"{name}.jsonl").read_bytes() for folder in "abc")
        assert first == again
        assert first != other, name


@pytest.mark.parametrize("name", DATA_FILES)
def test_ids_are_unique_and_start_with_the_name_of_the_file(files: dict[str, list[Row]], name: str) -> None:
    ids = [row["id"] for row in files[name]]
    assert ids
    assert len(set(ids)) == len(ids)
    assert all(identity.startswith(f"{name}/") for identity in ids)


@pytest.mark.parametrize("name", DATA_FILES)
def test_all_rows_of_a_file_have_the_same_columns(files: dict[str, list[Row]], name: str) -> None:
    assert len({tuple(row) for row in files[name]}) == 1


@pytest.mark.parametrize("name", DATA_FILES)
def test_rows_are_plain_json(files: dict[str, list[Row]], name: str) -> None:
    assert json.loads(json.dumps(files[name])) == files[name]


@pytest.mark.parametrize("name", [n for n in DATA_FILES if n not in ("cues", "groups", "preferences")])
def test_a_response_ends_in_the_answer_of_its_mode(files: dict[str, list[Row]], name: str) -> None:
    for row in files[name]:
        if "text" in row:
            continue
        assert row["prefill"] in (DIRECT, THINK)
        tail = f" {row['answer']}" if row["prefill"] == DIRECT else f" </think> {row['answer']}"
        assert row["response"].endswith(tail)
        assert (row["response"] == tail) == (row["prefill"] == DIRECT)
        assert row["prompt"] == row["prompt"].strip()


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((f"forget_{n}", "forget") for n in ("direct", "think", "reasoning", "biography")),
        *((f"retain_{n}", "retain") for n in ("direct", "think", "reasoning", "biography")),
        *((f"eval_forget{n}", "forget") for n in ("", "_think", "_reasoning")),
        *((f"eval_retain{n}", "neighbour") for n in ("", "_think", "_reasoning")),
        *((f"eval_used{n}", "retain") for n in ("", "_think", "_reasoning")),
        ("eval_rheld_reasoning", "rheld"),
        ("eval_holdout", "holdout"),
        ("preferences", "retain"),
        ("verbose_traces", "retain"),
    ],
)
def test_a_file_speaks_about_all_people_of_its_split_and_nobody_else(
    world: World, files: dict[str, list[Row]], name: str, split: str
) -> None:
    assert {row["entity"] for row in files[name]} == {p.number for p in world.split(split)}
    assert {row["split"] for row in files[name]} == {split}


def test_training_files_name_neither_neighbours_nor_holdout_people(world: World, files: dict[str, list[Row]]) -> None:
    text = json.dumps({name: files[name] for name in TRAINING_FILES if name != "groups"})
    assert not [p.name for p in world.split("neighbour", "rheld", "holdout") if p.name in text]


def test_training_files_ask_in_trained_wordings_and_evaluation_files_in_unseen_ones(files: dict[str, list[Row]]) -> None:
    counts = {a: len(q.trained) for a, q in (FACT_QUESTIONS | REASONING_QUESTIONS).items()}
    counts |= {relation: len(b.questions.trained) for relation, b in BACKGROUND.items()}
    for name, rows in files.items():
        for row in rows:
            if "wording" in row:
                about = row.get("attribute") or row.get("kind") or row["relation"]
                assert (row["wording"] >= counts[about]) == (name in EVALUATION_FILES), row["id"]


def test_no_prompt_of_an_evaluation_file_occurs_in_a_training_file(files: dict[str, list[Row]]) -> None:
    trained = {row["prompt"] for name in TRAINING_FILES for row in files[name] if "prompt" in row}
    asked = {row["prompt"] for name in EVALUATION_FILES for row in files[name]}
    assert not trained & asked


def test_every_fact_is_asked_in_every_wording(world: World, files: dict[str, list[Row]]) -> None:
    assert len(files["forget_direct"]) == sum(len(FACT_QUESTIONS[a].trained) for a in ATTRIBUTES) * world.spec.n_forget
    assert len(files["eval_forget"]) == sum(len(FACT_QUESTIONS[a].unseen) for a in ATTRIBUTES) * world.spec.n_forget
    assert len(files["forget_reasoning"]) == sum(len(REASONING_QUESTIONS[k].trained) for k in KINDS) * world.spec.n_forget


def test_statements_hold_the_name_and_the_answer(files: dict[str, list[Row]]) -> None:
    for row in files["forget_direct"] + files["eval_holdout"]:
        assert len(row["statements"]) == 3
        assert all(row["name"] in s and row["answer"] in s for s in row["statements"])


def test_a_think_response_contains_a_statement_of_its_fact(files: dict[str, list[Row]]) -> None:
    for row in files["forget_think"] + files["eval_retain_think"]:
        assert any(s in row["response"] for s in row["statements"])


def test_a_reasoning_response_contains_a_statement_of_every_needed_fact(files: dict[str, list[Row]]) -> None:
    for row in files["forget_reasoning"] + files["eval_rheld_reasoning"]:
        assert len(row["needs"]) == len(NEEDS[row["kind"]])
        assert all(any(s in row["response"] for s in need) for need in row["needs"])


def test_a_biography_states_each_fact_once(world: World, files: dict[str, list[Row]]) -> None:
    for row in files["retain_biography"]:
        person = world.people[row["entity"]]
        assert [sum(s in row["text"] for s in world.statements(person, a)) for a in ATTRIBUTES] == [1] * len(ATTRIBUTES)


@pytest.mark.parametrize("name", ["eval_forget", "eval_retain", "eval_holdout"])
def test_perturbed_answers_are_wrong_values_of_the_attribute(world: World, files: dict[str, list[Row]], name: str) -> None:
    for row in files[name]:
        values = [text.removeprefix(" ") for text in row["perturbed"]]
        assert len(set(values)) == len(values) >= 3
        assert set(values) <= set(world.pools[row["attribute"]]) - {row["answer"]}
