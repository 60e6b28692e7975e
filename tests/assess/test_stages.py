"""The further passes of an assessment from end to end, on tiny models."""

import json

import numpy as np
import pytest
import torch

from temper import assess
from temper.assess import modes, scoring
from temper.assess.itemtable import read_values
from temper.errors import DataError, ModelError, RunError
from temper.models.generation import generate
from tests.assess.builders import PEOPLE, TOWNS, counted, judged_people, recipe_document, write_people
from tests.assess.judges.server import serving

FAST = {"metrics": ["answer_accuracy"], "gold": None}


def loaded(folder, name="original"):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder / name).eval(), AutoTokenizer.from_pretrained(folder / name)


def test_choices_are_scored_where_rows_have_them_and_once_for_original_and_gold(folder, monkeypatch):
    run_folder = judged_people(folder)
    first = assess.run(run_folder)
    found = first.find("choice_accuracy", "forget")
    assert (found.n, found.status, found.reason) == (8, "ok", "chance is 0.25")
    assert first.find("choice_accuracy", "trace") is None
    values = read_values(run_folder / "records.parquet").values["choice_accuracy", "forget"]
    model, tokenizer = loaded(folder)
    right = []
    for name, town in zip(PEOPLE, TOWNS, strict=True):
        start = f"<s><|user|>Where was {name} born?<|assistant|><think></think>"
        sums = []
        for text in [town, *[other for other in TOWNS if other != town][:3]]:
            before = len(tokenizer(start, add_special_tokens=False)["input_ids"])
            ids = tokenizer(f"{start} {text}", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            sums.append(sum(float(logp[place - 1, ids[place]]) for place in range(before, len(ids))))
        right.append(float(np.argmax(sums) == 0))
    assert values.tolist() == right
    calls = counted(monkeypatch)
    again = assess.given(str(folder / "recipe.yaml"), ["name=other"], folder / "other")
    assert assess.run(again).results == first.results
    assert calls == [str(folder / "original")]  # as the judged model


def test_the_trace_of_a_model_is_read_by_the_original(folder):
    document = recipe_document(folder, roles=("forget", "trace"), metrics=["trace_perplexity"])
    document["model"]["path"] = str(folder / "gold")
    run_folder = judged_people(folder, document)
    evidence = assess.run(run_folder)
    values = read_values(run_folder / "records.parquet").values["trace_health.nll_original", "trace"]
    writer, tokenizer = loaded(folder, "gold")
    reader, _ = loaded(folder)
    expected = []
    for name in PEOPLE:
        start = f"<s><|user|>Where was {name} born?<|assistant|><think>"
        (text,) = generate(writer, tokenizer, [start], max_new_tokens=6, batch_size=1)
        before = len(tokenizer(start, add_special_tokens=False)["input_ids"])
        ids = tokenizer(start + text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logp = reader(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected.append(-np.mean([float(logp[place - 1, ids[place]]) for place in range(before, len(ids))]))
    np.testing.assert_allclose(values, expected, rtol=1e-4)
    assert evidence.find("trace_health.nll_original", "forget") is None
    assert {metric.partition(".")[0] for metric, _ in read_values(run_folder / "records.parquet").values} == {"trace_health"}


def test_without_an_original_traces_are_not_read(folder):
    found = assess.run(judged_people(folder, original=None, gold=None)).find("trace_health.nll_original", "trace")
    assert (found.value, found.status) == (None, "no_original")


def test_metrics_that_were_not_asked_for_cost_no_pass(folder, monkeypatch):
    for name in ("choice_entries", "generate", "ask"):
        monkeypatch.setattr(scoring, name, lambda *given, **_: pytest.fail("was called") if given[2] else [])
    evidence = assess.run(judged_people(folder, metrics=["probability"], decoding=["zero_thinking"]))
    assert {result.metric.partition(".")[0] for result in evidence.results} == {"probability", "utility"}


@pytest.mark.parametrize("mode", ["zero_thinking", "less_thinking"])
def test_a_mode_asks_the_thinking_roles_again_and_names_its_results(folder, mode):
    run_folder = judged_people(folder, decoding=[mode], original=None, gold=None)
    evidence = assess.run(run_folder)
    found = evidence.find(f"answer_accuracy@{mode}", "trace")
    assert (found.n, found.status) == (8, "ok")
    assert evidence.find(f"answer_accuracy@{mode}", "forget") is None
    model, tokenizer = loaded(folder)
    thought = "</think>" if mode == "zero_thinking" else " This needs little thinking.</think>"
    words = []
    for name in PEOPLE:
        start = f"<s><|user|>Where was {name} born?<|assistant|><think>{thought}"
        (text,) = generate(model, tokenizer, [start], max_new_tokens=6, batch_size=1)
        words.append(float(not (thought + text).rpartition("</think>")[2].strip()))
    values = read_values(run_folder / "records.parquet").values[f"answer_accuracy.empty@{mode}", "trace"]
    assert values.tolist() == words


def test_in_a_mode_answers_are_measured_and_nothing_of_the_trace(folder):
    document = recipe_document(folder, roles=("forget", "trace"), decoding=["less_thinking"], gold=None)
    run_folder = judged_people(folder, document)
    write_people(folder / "trace.jsonl", thinks=True, options=TOWNS)
    evidence = assess.run(run_folder)
    assert {result.metric.partition("@")[0] for result in evidence.results if "@" in result.metric} == {
        *(f"answer_accuracy{part}" for part in ("", ".lenient", ".wrong", ".empty")),
        *("final_answer", "final_answer.unparsed", "trace_leak.statement"),
    }


def test_what_follows_a_forced_thought_is_read_without_the_forced_text(folder, monkeypatch):
    forced = {"less_thinking": "Ada was born in London."}  # the fact of the first row
    run_folder = judged_people(folder, decoding=[forced], original=None, gold=None, metrics=["trace_leak"])
    monkeypatch.setattr(modes, "generate", lambda *_, **__: [" London", *[" Bo was born in Rome."] * 7])
    assess.run(run_folder)
    values = read_values(run_folder / "records.parquet").values["trace_leak.statement@less_thinking", "trace"]
    assert values.tolist() == [0, 1, 0, 0, 0, 0, 0, 0]


def test_no_metric_of_answers_asks_no_mode(folder, monkeypatch):
    monkeypatch.setattr(scoring, "ask", lambda *_, **__: pytest.fail("was called"))
    evidence = assess.run(judged_people(folder, decoding=["zero_thinking"], original=None, gold=None, metrics=["rouge"]))
    assert not [result for result in evidence.results if "@" in result.metric]


def judged_by(folder, url, seen=None, **settings):
    judge = {"prompt": {"url": url, "model": "m", "key_env": None, "backoff_s": 0.001, "retries": 0, **settings}}
    run_folder = judged_people(folder, judges=[judge], metrics=["trace_category"], gold=None)
    return assess.run(run_folder, progress=None if seen is None else lambda *given: seen.append(given))


def test_judging_is_told_case_by_case_and_ends_at_the_whole(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    seen = []
    with serving("2") as (url, _):
        judged_by(folder, url, seen)
    told = [(done, total) for _, done, total, note in seen if note.startswith("judging")]
    # the tail of the work: eight traces of each of two models, one by one where a question was asked
    total = told[-1][1]
    assert told[-1] == (total, total) and min(done for done, _ in told) == total - 15 and len(told) > 2


def test_a_judge_that_is_not_there_is_found_before_a_model_is_loaded(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scoring, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    with serving("1") as (url, _):
        pass
    with pytest.raises(RunError, match="Nothing was scored yet"):
        judged_by(folder, url)


def test_rows_of_a_role_that_do_not_think_are_not_asked_in_a_mode(folder):
    run_folder = judged_people(folder, decoding=["zero_thinking"], original=None, **FAST)
    lines = (folder / "trace.jsonl").read_text().splitlines()
    direct = json.loads(lines[0]) | {"prefill": "<think></think>", "response": " London"}
    (folder / "trace.jsonl").write_text("\n".join([json.dumps(direct), *lines[1:]]) + "\n")
    assert assess.run(run_folder).find("answer_accuracy@zero_thinking", "trace").n == 7
    values = read_values(run_folder / "records.parquet").values["answer_accuracy@zero_thinking", "trace"]
    assert np.isnan(values).tolist() == [True] + [False] * 7


def test_a_mode_is_asked_once_of_original_and_gold(folder, monkeypatch):
    run_folder = judged_people(folder, decoding=["zero_thinking", "less_thinking"], metrics=["answer_accuracy"])
    first = assess.run(run_folder)
    calls = counted(monkeypatch)
    other = assess.given(str(folder / "recipe.yaml"), ["name=other"], folder / "other")
    assert assess.run(other).results == first.results and calls == [str(folder / "original")]


def test_a_mode_that_leaves_no_room_for_new_tokens_is_refused_before_scoring(folder):
    with pytest.raises(ModelError, match="longest prompt of less_thinking"):
        assess.run(judged_people(folder, decoding=[{"less_thinking": "very " * 80}]))


def test_results_that_were_there_before_do_not_change_with_modes_and_probes(folder):
    run_folder = judged_people(folder, gold=None)
    before = assess.run(run_folder).results
    after = assess.run(run_folder, overrides=["evaluate.decoding=[zero_thinking]", "evaluate.probes=[relearning]"]).results
    names = [(r.metric, r.role, r.model) for r in before]
    assert [r for r in after if (r.metric, r.role, r.model) in names] == before
    assert len(after) > len(before)


def test_progress_counts_choices_modes_and_probes(folder):
    seen = []
    run_folder = judged_people(folder, decoding=["zero_thinking"], probes=[{"relearning": 2}, "trace_prefill"])
    assess.run(run_folder, progress=lambda stage, done, total, note: seen.append((done, total, note)))
    # a model: 2 x 16 rows, 8 x 4 choices, 8 rows in the mode, 8 traces, 2 steps and 4 held-back rows, 8 prefilled traces
    assert seen[-1][:2] == (3 * (32 + 32 + 8 + 8 + 6 + 8),) * 2
    assert [done for done, *_ in seen] == sorted(done for done, *_ in seen)
    assert "relearning of gold" in {note for *_, note in seen}


def test_a_column_that_changed_is_assessed_anew(folder):
    run_folder = judged_people(folder, original=None, **FAST)
    assert assess.run(run_folder).find("answer_accuracy", "forget").n == 8
    write_people(folder / "forget.jsonl", thinks=False, answer=None)  # ids and tokens stay
    assert assess.run(run_folder).find("answer_accuracy", "forget") is None


def test_choices_that_are_wrong_are_refused_before_anything_is_scored(folder, monkeypatch):
    run_folder = judged_people(folder)
    write_people(folder / "forget.jsonl", thinks=False, choices=[" a", " b"])
    monkeypatch.setattr(scoring, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(DataError, match=r"evaluate\.data\.forget row 'forget/0': answer 'London' is not among its 2 choices"):
        assess.run(run_folder)
