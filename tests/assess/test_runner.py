import json
import logging
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from temper import assess
from temper.assess import runner as assess_runner
from temper.assess import scoring
from temper.assess.evidence import Evidence
from temper.assess.itemtable import read_values
from temper.errors import DataError, InputError, ModelError, RecipeError, RunLocked
from temper.recipe import dump, from_dict
from temper.run import open_run
from tests.assess.builders import PEOPLE, TOWNS, recipe_document, write_models, write_rows
from tests.data.tokenizers import make_tokenizer


@pytest.fixture
def folder(tmp_path, make_llama):
    write_models(tmp_path, make_llama)
    return tmp_path


def judged(folder, document=None, **kwargs):
    path = folder / "recipe.yaml"
    path.write_text(dump(from_dict(document or recipe_document(folder))))
    return assess.given(str(path), [], folder / "run", **kwargs)


def counted(monkeypatch):
    calls = []
    original = scoring.load_model

    def load(path, **kwargs):
        calls.append(path)
        return original(path, **kwargs)

    monkeypatch.setattr(scoring, "load_model", load)
    return calls


def test_evidence_and_records_are_written_and_read_back(folder):
    run_folder = judged(folder)
    evidence = assess.run(run_folder)
    assert Evidence.read(run_folder / "evidence.json") == evidence
    assert (evidence.method, evidence.cost, set(evidence.models)) == ("given", None, {"unlearned", "original", "gold"})
    found = evidence.find("probability", "forget")
    values = read_values(run_folder / "records.parquet").values["probability", "forget"]
    assert found.value == pytest.approx(values.mean()) and found.n == len(PEOPLE) == len(values)
    assert found.low < found.value < found.high


def test_every_metric_speaks_and_says_why_where_it_has_no_value(folder):
    evidence = assess.run(judged(folder))
    stems = {result.metric.partition(".")[0] for result in evidence.results}
    assert stems >= {
        "probability",
        "exact_memorization",
        "extraction_strength",
        "rouge",
        "answer_accuracy",
        "trace_leak",
        "membership",
    }
    assert "utility" in stems
    assert all(result.reason for result in evidence.results if result.status != "ok")


def test_relative_utility_to_a_model_that_answers_nothing_is_not_a_number(folder):
    evidence = assess.run(judged(folder))
    assert evidence.find("utility.relative", "all").status == "degenerate"  # a random model answers nothing


def test_a_finished_assessment_is_not_done_again(folder, monkeypatch):
    run_folder = judged(folder)
    first = assess.run(run_folder)
    calls = counted(monkeypatch)
    assert assess.run(run_folder) == first and calls == []


def test_original_and_gold_are_scored_once_over_many_runs(folder, monkeypatch):
    first = assess.run(judged(folder))
    calls = counted(monkeypatch)
    path = folder / "recipe.yaml"
    other = assess.given(str(path), ["name=other"], folder / "other")
    second = assess.run(other)
    assert calls == [str(folder / "original")]  # as the judged model; as original and as gold its scores are known
    assert second.results == first.results and second.models == first.models


def test_a_broken_pack_is_made_again_with_a_warning(folder, caplog, monkeypatch):
    monkeypatch.setenv("TEMPER_CACHE", str(folder / "cache"))
    first = assess.run(judged(folder))
    for pack in (folder / "cache" / "packs").iterdir():
        pack.write_bytes(b"torn")
    with caplog.at_level(logging.WARNING, logger="temper.assess.scoring"):
        second = assess.run(assess.given(str(folder / "recipe.yaml"), [], folder / "again"))
    assert "made again" in caplog.text and second.results == first.results


def test_an_override_of_evaluate_is_assessed_anew_in_the_same_folder(folder):
    run_folder = judged(folder)
    first = assess.run(run_folder)
    second = assess.run(run_folder, overrides=["evaluate.metrics=[probability]"])
    assert second.recipe_hash != first.recipe_hash
    assert {result.metric for result in second.results} == {"probability", "utility", "utility.relative"}
    assert second.examples == []


def test_an_override_of_what_was_trained_is_refused(folder):
    with pytest.raises(RecipeError, match="seed"):
        assess.run(judged(folder), overrides=["seed=3"])


def test_without_gold_gaps_say_so(folder):
    evidence = assess.run(judged(folder, recipe_document(folder, gold=None)))
    assert {gap.status for gap in evidence.gaps if gap.metric == "probability"} == {"no_gold"}
    assert any("No retrained model" in note for note in evidence.notes)


def test_without_an_original_gaps_say_so(folder):
    evidence = assess.run(judged(folder, recipe_document(folder, original=None)))
    assert {gap.status for gap in evidence.gaps if gap.metric == "probability"} == {"no_original"}
    assert set(evidence.models) == {"unlearned", "gold"}


def test_without_holdout_membership_is_skipped(folder):
    evidence = assess.run(judged(folder, recipe_document(folder, roles=("forget", "neighbour"))))
    found = evidence.find("membership.loss", "forget")
    assert (found.value, found.status) == (None, "skipped") and "holdout" in found.reason


def test_eight_rows_a_side_are_too_few_for_membership(folder):
    found = assess.run(judged(folder)).find("membership.loss", "forget")
    assert found.status == "too_few_items" and found.value is not None


def test_one_item_has_a_value_and_no_bootstrap_interval(folder):
    document = recipe_document(folder, roles=("forget",))
    write_rows(folder / "forget.jsonl", PEOPLE[:1], TOWNS[:1])
    found = assess.run(judged(folder, document)).find("probability", "forget")
    assert (found.n, found.low, found.high) == (1, None, None) and found.value > 0


def test_a_row_too_long_for_the_model_is_counted_and_noted(folder):
    document = recipe_document(folder, roles=("forget",))
    write_rows(folder / "forget.jsonl", ["Ada", "B" + "o" * 400], ["London", "Rome"])
    evidence = assess.run(judged(folder, document))
    found = evidence.find("probability", "forget")
    assert (found.n, found.dropped) == (1, 1)
    assert any("1 of 2 rows of forget could not be used" in note for note in evidence.notes)


def test_a_model_that_gives_nan_is_failed_and_never_zero(folder):
    weights = folder / "original" / "model.safetensors"
    tensors = load_file(weights)
    tensors["lm_head.weight"][9] = math.nan
    save_file(tensors, weights, metadata={"format": "pt"})
    evidence = assess.run(judged(folder))
    found = evidence.find("probability", "forget")
    assert (found.value, found.status, found.dropped) == (None, "failed", len(PEOPLE))
    assert evidence.find("membership.loss", "forget").status == "failed"
    assert evidence.find("probability", "forget", "gold").status == "ok"
    assert any("no finite numbers" in note for note in evidence.notes)


def test_another_vocabulary_is_refused(folder, make_llama):
    tokenizer = make_tokenizer(chat=True, vocabulary=300)
    make_llama(vocab=len(tokenizer)).save_pretrained(folder / "gold")
    tokenizer.save_pretrained(folder / "gold")
    with pytest.raises(ModelError, match="another vocabulary"):
        assess.run(judged(folder))
    assert not (folder / "run" / "evidence.json").exists()


def test_new_tokens_beyond_the_context_are_refused_before_scoring(folder):
    with pytest.raises(ModelError, match="max_new_tokens"):
        assess.run(judged(folder, recipe_document(folder, max_new_tokens=120)))


def test_data_that_changed_between_two_assessments_are_scored_anew(folder):
    run_folder = judged(folder)
    before = assess.run(run_folder).find("probability", "forget").n
    write_rows(folder / "forget.jsonl", PEOPLE[:3], TOWNS[:3])
    assert assess.run(run_folder).find("probability", "forget").n == 3 != before


def test_weights_that_changed_between_two_assessments_are_scored_anew(folder):
    run_folder = judged(folder)
    before = assess.run(run_folder).models["unlearned"].weights_hash
    for file in (folder / "gold").iterdir():
        (folder / "original" / file.name).write_bytes(file.read_bytes())
    assert assess.run(run_folder).models["unlearned"].weights_hash != before


def test_a_fault_in_the_evaluation_is_found_before_anything_is_trained(folder):
    recipe = from_dict(recipe_document(folder) | {"evaluate": {"data": {"forget": {"path": str(folder / "nope.jsonl")}}}})
    with pytest.raises(DataError, match="no such file"):
        assess.check(recipe)
    assess.check(from_dict(recipe_document(folder)))


def test_a_recipe_without_evaluate_is_refused(folder):
    with pytest.raises(RecipeError, match="evaluate: missing"):
        judged(folder, {"model": {"path": str(folder / "original")}})


def test_a_recipe_with_a_method_is_to_be_unlearned_first(folder):
    document = recipe_document(folder) | {"method": "npo", "train": {"steps": 1}}
    with pytest.raises(RecipeError, match="temper unlearn"):
        judged(folder, document)


def test_a_run_without_its_model_is_refused(folder):
    document = recipe_document(folder) | {"method": "npo", "train": {"steps": 1}}
    with open_run(from_dict(document), folder / "run"):
        pass
    with pytest.raises(InputError, match="no model yet"):
        assess.run(folder / "run")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a run folder"):
        assess.run(tmp_path)


def test_a_folder_in_use_is_refused(folder):
    run_folder = judged(folder)
    with open_run(from_dict(recipe_document(folder)), run_folder), pytest.raises(RunLocked):
        assess.run(run_folder)


def test_progress_counts_up_to_its_total(folder):
    seen = []
    run_folder = judged(folder)
    assess.run(run_folder, progress=lambda stage, done, total, note: seen.append((stage, done, total, note)))
    # three models, five roles: records, continuations, and the original's reading of every trace
    assert seen[-1][1] == seen[-1][2] == (2 + 1) * 3 * 5 * len(PEOPLE)
    assert [done for _, done, _, _ in seen] == sorted(done for _, done, _, _ in seen)
    models = {"unlearned", "original", "gold"}
    assert {note for *_, note in seen} == models | {f"traces of {model}" for model in models}


def test_an_unlearned_run_is_judged_with_its_cost(folder):
    from temper import unlearn

    rows = {
        role: {"path": str(write_rows(folder / f"train_{role}.jsonl", people, towns))}
        for role, people, towns in (("forget", PEOPLE[:4], TOWNS[:4]), ("retain", PEOPLE[4:], TOWNS[4:]))
    }
    document = recipe_document(folder, original=None) | {
        "data": rows,
        "method": {"name": "rmu", "layer": 1, "mask": "answer"},
        "train": {"steps": 2, "batch_size": 2, "learning_rate": 0.01},
    }
    run_folder = unlearn.run(from_dict(document), folder / "run")
    evidence = assess.run(run_folder)
    assert (evidence.method, evidence.cost.steps) == ("rmu", 2)
    assert evidence.models["unlearned"].path == str(run_folder / "model")
    assert evidence.models["original"].path == str(folder / "original")
    assert evidence.cost.parameters == evidence.models["unlearned"].parameters
    # RMU at block 1 of a deeper model trains what lies at or below that block, and nothing else
    assert 0 < evidence.cost.trained_parameters < evidence.cost.parameters
    assert any("answer positions" in note for note in evidence.notes)


def test_results_do_not_depend_on_the_batch_size(folder):
    first = assess.run(judged(folder))
    second = assess.run(folder / "run", overrides=["evaluate.batch_size=1"])
    assert [(r.metric, r.role, r.model) for r in first.results] == [(r.metric, r.role, r.model) for r in second.results]
    for one, other in zip(first.results, second.results, strict=True):
        assert one.value == (None if other.value is None else pytest.approx(other.value, rel=1e-5, abs=1e-7))


def test_evidence_is_plain_json_without_nan(folder):
    text = (assess.run(judged(folder)), (folder / "run" / "evidence.json").read_text())[1]
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name))


def test_torch_is_left_with_one_thread(folder):
    assess.run(judged(folder))
    assert torch.get_num_threads() == 1


def test_an_assessment_by_another_version_is_done_again(folder, monkeypatch):
    run_folder = judged(folder)
    assess.run(run_folder)
    calls = counted(monkeypatch)
    monkeypatch.setattr(assess_runner, "__version__", "9.9")
    assess.run(run_folder)
    assert calls


def test_an_assessment_by_other_settings_keeps_the_earlier_evidence(folder, caplog):
    run_folder = judged(folder)
    first = assess.run(run_folder)
    with caplog.at_level(logging.WARNING, logger="temper.assess.earlier"):
        assess.run(run_folder, overrides=["evaluate.metrics=[probability]"])
    (kept,) = run_folder.glob("evidence-*.json")
    assert Evidence.read(kept) == first and "metrics" in caplog.text


def test_evidence_says_how_it_was_judged(folder):
    settings = assess.run(judged(folder)).settings
    assert [judge["name"] for judge in settings["judges"]] == ["deterministic"]
    assert settings["decoding"] == [] and "answer_accuracy" in settings["metrics"]


def test_a_judge_that_failed_is_asked_again_by_the_next_assessment(folder, monkeypatch):
    run_folder = judged(folder)
    evidence = assess.run(run_folder)
    broken = evidence.find("trace_category.invalid", "trace").model_copy(update={"value": 0.5, "status": "ok"})
    others = [result for result in evidence.results if result.metric != "trace_category.invalid"]
    evidence.model_copy(update={"results": [*others, broken]}).write(run_folder / "evidence.json")
    calls = counted(monkeypatch)
    again = assess.run(run_folder)
    assert calls and again.find("trace_category.invalid", "trace").value == evidence.find("trace_category.invalid", "trace").value


@pytest.mark.parametrize(
    ("method", "acts"),
    [
        ({"name": "rmu", "layer": 1}, True),
        ({"name": "rmu", "layer": 1, "retain_term": "nll"}, False),
        ({"name": "rmu", "layer": 1, "retain_weight": 0.0}, False),
    ],
)
def test_the_mask_of_a_retain_term_is_a_fact_only_where_the_term_reads_it(folder, method, acts):
    recipe = from_dict(recipe_document(folder) | {"method": method, "train": {"steps": 1}})
    assert ("retain_mask" in assess_runner._acted({"mask": "answer", "retain_mask": "nonpad"}, recipe)) is acts
