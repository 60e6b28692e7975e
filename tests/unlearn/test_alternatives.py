"""Other responses to the questions of a role: where they come from, how they are drawn and what cannot be used."""

import json
from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file

from temper import unlearn
from temper.errors import DataError, RecipeError
from temper.unlearn.alternatives import Alternatives, Draft
from temper.unlearn.prepare import prepare
from tests.unlearn.models import PEOPLE, recipe_for, write_world

GENERATE = {"generate": {"samples": 3, "max_new_tokens": 6}}


@pytest.fixture
def folder(tmp_path, make_llama):
    return write_world(tmp_path, make_llama)


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


def give(folder, alternatives):
    """Write a column with alternatives into the forget rows; None leaves it out."""
    rows = [json.loads(line) for line in (folder / "forget.jsonl").read_text().splitlines()]
    for row, alternative in zip(rows, alternatives, strict=True):
        if alternative is not None:
            row["alternate"] = alternative
    (folder / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def drawn(recipe):
    """Return (item, epoch) to the response that stands in for the item's."""
    prepared = prepare(recipe)
    found = prepared.substitutions["forget"]
    pairs = {prepared.pairs.draw("forget", index) for index in range(len(prepared.pairs))}
    return {pair: found.rows.items[found.derived.remap(*pair)] for pair in pairs}


# ---- a column ----


@pytest.mark.parametrize("method", ["po", "dpo", "altpo"])
def test_a_column_of_text_gives_every_item_its_alternative(folder, method):
    give(folder, [f" {name} was born nowhere." for name in PEOPLE[:4]])
    recipe = recipe_for(folder, method={"name": method, "alternatives": {"column": "alternate"}})
    for (item, _), row in drawn(recipe).items():
        assert row.response.strip() == f"{PEOPLE[item]} was born nowhere." and PEOPLE[item] in row.prompt
    assert (unlearn.run(recipe, folder / "run") / "model").is_dir()


def test_a_column_of_lists_gives_one_of_them_an_epoch(folder):
    give(folder, [[" One.", " Two.", " Three."]] * 4)
    recipe = recipe_for(folder, method={"name": "dpo", "alternatives": {"column": "alternate"}}, train={"steps": 20})
    found = {pair: row.response for pair, row in drawn(recipe).items()}
    assert len(found) == 4 * 10 and set(found.values()) == {" One.", " Two.", " Three."}
    assert len({found[0, epoch] for epoch in range(10)}) > 1 and len({found[item, 0] for item in range(4)}) > 1
    assert found == {pair: row.response for pair, row in drawn(recipe).items()}


def test_what_is_drawn_does_not_depend_on_how_a_step_is_split(folder):
    give(folder, [[" One.", " Two.", " Three."]] * 4)
    method = {"name": "dpo", "alternatives": {"column": "alternate"}}
    found = []
    for size in (4, 2, 1):
        train = {"steps": 10, "batch_size": size, "accumulation": 4 // size}
        found.append({pair: row.response for pair, row in drawn(recipe_for(folder, method=method, train=train)).items()})
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("bad", [None, "", "  ", [], [""], 3, ["good", 4]])
def test_a_row_without_an_alternative_is_named(folder, bad):
    give(folder, [" No.", " No.", bad, " No."])
    with pytest.raises(DataError, match=r"data.forget row 'forget2'") as caught:
        unlearn.run(recipe_for(folder, method={"name": "dpo", "alternatives": {"column": "alternate"}}), folder / "run")
    assert "method.alternatives" in str(caught.value) and "'alternate'" in str(caught.value)


def test_the_nearest_column_is_suggested(folder):
    give(folder, [" No."] * 4)
    with pytest.raises(DataError, match="alternate"):
        unlearn.run(recipe_for(folder, method={"name": "dpo", "alternatives": {"column": "alternat"}}), folder / "run")


@pytest.mark.parametrize("method", ["dpo", "altpo"])
def test_an_alternative_that_is_no_source_is_refused_with_the_known_ones(folder, method):
    with pytest.raises(RecipeError, match="method.alternatives.*refusals"):
        recipe_for(folder, method={"name": method, "alternatives": {"columns": "x"}})


# ---- refusals ----


def test_a_refusal_is_written_as_the_settings_say(folder):
    (folder / "no.txt").write_text("I cannot say.\n")
    alternatives = {"refusals": {"file": str(folder / "no.txt"), "response_format": " {refusal} Sorry."}}
    rows = drawn(recipe_for(folder, method={"name": "dpo", "alternatives": alternatives})).values()
    assert {row.response for row in rows} == {" I cannot say. Sorry."}


def test_retain_questions_meet_refusals_where_answers_are_preserved(folder):
    prepared = prepare(recipe_for(folder, method={"name": "me", "retain_term": "ap"}))
    assert set(prepared.substitutions) == {"retain"}
    sample = prepared.dataset()[0]
    beside = prepared.all_rows()["retain.alternative"].items[sample["retain.alternative"]]
    assert beside.prompt == prepared.rows["retain"].items[sample["retain"]].prompt


# ---- generated ----


def files(run):
    return sorted(run.glob("alternatives-*.json"))


def test_generated_alternatives_are_kept_in_the_run_folder(folder):
    run = unlearn.run(recipe_for(folder, method={"name": "altpo", "alternatives": GENERATE}), folder / "run")
    (file,) = files(run)
    found = json.loads(file.read_text())
    assert sorted(found) == ["0", "1", "2", "3"] and all(1 <= len(texts) <= 3 for texts in found.values())
    answers = [json.loads(line)["response"] for line in (folder / "forget.jsonl").read_text().splitlines()]
    assert not [place for place, texts in found.items() if answers[int(place)] in texts]


def test_generated_alternatives_depend_on_the_seed_and_on_nothing_else(folder):
    texts = []
    for seed, size, name in ((0, 2, "a"), (0, 4, "b"), (1, 2, "c")):
        recipe = recipe_for(
            folder, method={"name": "altpo", "alternatives": GENERATE}, seed=seed, train={"batch_size": size, "steps": 8 // size}
        )
        texts.append(files(unlearn.run(recipe, folder / name))[0].read_text())
    assert texts[0] == texts[1] != texts[2]


def test_a_run_that_goes_on_uses_the_alternatives_it_wrote(folder):
    recipe = recipe_for(folder, method={"name": "altpo", "alternatives": GENERATE}, train={"checkpoint_every": 1})
    whole = unlearn.run(recipe, folder / "whole")

    def kill(stage, done, total, note=""):
        if stage == "train" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unlearn.run(recipe, folder / "again", progress=kill)
    stamp = files(folder / "again")[0].stat().st_mtime_ns
    seen = []
    again = unlearn.run(recipe, folder / "again", progress=lambda stage, *_: seen.append(stage))
    assert [file.stat().st_mtime_ns for file in files(again)] == [stamp] and "generate" not in seen
    assert same(weights(again), weights(whole))


def test_generated_alternatives_stand_in_the_place_of_the_answer_too(folder):
    run = unlearn.run(recipe_for(folder, method={"name": "po", "alternatives": GENERATE}), folder / "run")
    assert files(run) and (run / "model").is_dir()


def test_generated_alternatives_are_those_of_the_model_before_with_an_adapter_as_without(folder):
    method = {"name": "altpo", "alternatives": GENERATE}
    runs = [
        unlearn.run(recipe_for(folder, method=method, selection=selection), folder / name)
        for name, selection in (("a", "all"), ("b", {"lora": 2}))
    ]
    assert files(runs[0])[0].read_text() == files(runs[1])[0].read_text()


def test_a_model_that_says_nothing_but_its_answer_has_no_alternative(folder, monkeypatch):
    import temper.models.generation as generation

    answers = [json.loads(line)["response"] for line in (folder / "forget.jsonl").read_text().splitlines()]
    monkeypatch.setattr(generation, "sample", lambda *args, samples, **kwargs: [[text.upper()] * samples for text in answers])
    with pytest.raises(DataError, match=r"says nothing but its answer for 4 rows \(forget0, forget1, forget2\)"):
        unlearn.run(recipe_for(folder, method={"name": "altpo", "alternatives": GENERATE}), folder / "run")
    assert not (folder / "run" / "model").exists() and not files(folder / "run")


def test_text_without_a_question_cannot_be_answered_by_the_model(folder):
    (folder / "forget.jsonl").write_text('{"text": "Ada was born in London."}\n')
    with pytest.raises(DataError, match="is text without a question"):
        unlearn.run(recipe_for(folder, method={"name": "altpo", "alternatives": GENERATE}), folder / "run")


# ---- one's own ----


class Nowhere(Alternatives):
    """Answers every question with a place that depends on the epoch."""

    name: ClassVar[str] = "nowhere"
    place: str = "nowhere"

    def responses(self, draft: Draft, pairs: Sequence[tuple[int, int]]) -> list[str]:
        return [f" In {self.place}{epoch}." for _, epoch in pairs]


@pytest.mark.parametrize("method", ["po", "dpo"])
def test_a_source_of_one_s_own_is_given_as_an_object(folder, method):
    recipe = recipe_for(folder, method={"name": method, "alternatives": Nowhere(place="Atlantis")})
    assert {row.response for row in drawn(recipe).values()} == {" In Atlantis0.", " In Atlantis1."}
    assert (unlearn.run(recipe, folder / "run") / "model").is_dir()


def test_a_run_with_a_source_of_one_s_own_can_go_on(folder):
    recipe = recipe_for(folder, method={"name": "dpo", "alternatives": Nowhere()}, train={"checkpoint_every": 1})

    def kill(stage, done, total, note=""):
        if stage == "train" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unlearn.run(recipe, folder / "run", progress=kill)
    assert (unlearn.run(recipe, folder / "run") / "model").is_dir()
