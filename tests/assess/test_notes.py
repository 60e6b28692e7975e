import pytest

from temper.assess.evidence import Result
from temper.assess.notes import notes
from temper.recipe import EvaluateSection

ALL = ["unlearned", "original", "gold"]


def answer(metric, value):
    return Result(metric=metric, role="retain_trace", model="unlearned", value=value, n=9, better="higher")


def test_the_steering_mask_is_put_in_words():
    (line,) = notes({"mask": "nonpad"}, {"holdout": EMPTY}, [], ALL)
    assert "every token" in line and "names" in line


def test_answers_that_run_on_are_told_from_lost_knowledge():
    results = [answer("answer_accuracy", 0.42), answer("answer_accuracy.lenient", 0.93)]
    (line,) = notes({}, {"holdout": EMPTY}, results, ALL)
    assert "0.93" in line and "0.42" in line and "does not stop" in line


def test_a_small_difference_is_not_worth_a_note():
    results = [answer("answer_accuracy", 0.90), answer("answer_accuracy.lenient", 0.95)]
    assert notes({}, {"holdout": EMPTY}, results, ALL) == []


def test_what_is_missing_is_said():
    lines = notes({}, {}, [], ["unlearned"])
    assert [line.split(" was given")[0].split(" were given")[0] for line in lines] == [
        "No retrained model",
        "No original model",
        "No holdout rows",
    ]


def measured(metric, role, **values):
    return [
        Result(metric=metric, role=role, model=model, value=value, n=0 if value is None else 9, better="gold")
        for model, value in values.items()
    ]


def test_facts_that_relearning_brings_back_are_said_to_be_hidden():
    results = measured("relearning.before", "forget", unlearned=0.04, gold=0.11)
    results += measured("relearning.after", "forget", unlearned=0.71, gold=0.03)
    (line,) = notes({}, {"holdout": EMPTY}, results, ALL)
    assert all(number in line for number in ("0.71", "0.04", "0.03")) and "hidden, not lost" in line


@pytest.mark.parametrize(("before", "after", "gold"), [(0.04, 0.13, 0.0), (0.0, 0.2, 0.15), (0.9, 0.95, 0.0), (0.0, None, 0.0)])
def test_facts_that_stay_away_or_never_went_have_no_note(before, after, gold):
    results = measured("relearning.before", "forget", unlearned=before)
    results += measured("relearning.after", "forget", unlearned=after, gold=gold)
    assert notes({}, {"holdout": EMPTY}, results, ALL) == []


def test_traces_that_the_original_would_not_write_are_called_garble():
    results = measured("trace_health.nll_original", "trace", unlearned=4.0, original=0.1, gold=0.8)
    results += measured("trace_health.nll_original", "reasoning", unlearned=1.7, original=0.1, gold=0.8)
    (line,) = notes({}, {"holdout": EMPTY}, results, ALL)
    assert line.startswith("On trace") and "54.6" in line and "2.23" in line


class EMPTY:
    dropped = ()
    items = ()


def test_rows_that_were_read_again_are_named():
    facts = {"reads_of_a_row": {"reasoning": 2.44, "trace": 1.0, "retain": 5.0}}
    lines = notes(facts, {}, [], ["unlearned", "original", "gold"])
    assert [line for line in lines if "was read" in line] == [
        "Each reasoning row was read 2.4 times: there are fewer of them than the run drew."
    ]


@pytest.mark.parametrize("mask", ["answer", "labelled", "final", "nonpad", "all"])
def test_every_mask_that_acted_is_stated(mask):
    facts = {"mask": mask, "trace_mask": "final", "retain_mask": "nonpad", "reasoning_mask": "labelled"}
    (line,) = notes(facts, {"holdout": EMPTY}, [], ALL)
    assert f"(mask: {mask})" in line and "(trace_mask: final)" in line
    assert "(retain_mask: nonpad)" in line and "(reasoning_mask: labelled)" in line
    assert "trace rows on the end of the thought" in line and "reasoning rows on the scored positions" in line


def test_a_run_that_steered_traces_is_never_said_to_have_left_them():
    (both,) = notes({"mask": "answer", "trace_mask": "answer"}, {"holdout": EMPTY}, [], ALL)
    assert "No trace rows" not in both
    (alone,) = notes({"mask": "answer"}, {"holdout": EMPTY}, [], ALL)
    assert "No trace rows were steered" in alone
    (final,) = notes({"mask": "final"}, {"holdout": EMPTY}, [], ALL)
    assert "a thought before it was left alone" in final


def test_verdicts_that_were_not_valid_are_counted_by_judge_and_model():
    results = measured("trace_category.invalid", "trace", unlearned=3 / 9, original=0.0)
    results += measured("trace_category.other.invalid", "trace", unlearned=0.0, gold=1.0)
    first, other = notes({}, {"holdout": EMPTY}, results, ALL)
    assert first.startswith("The first judge") and "3 of 9 of the unlearned model" in first and "original" not in first
    assert other.startswith("The judge other gave") and "9 of 9 of the gold model" in other


def test_the_judge_whose_verdicts_failed_is_named():
    results = measured("trace_category.invalid", "trace", unlearned=1.0)
    (line,) = notes({}, {"holdout": EMPTY}, results, ALL, evaluate())
    assert line.startswith("The judge deterministic gave no valid verdict")


def test_broken_reasoning_elsewhere_is_damage_and_not_a_low_leak():
    results = measured("trace_health.nll_original", "reasoning", unlearned=4.0, original=0.1)
    (line,) = notes({}, {"holdout": EMPTY}, results, ALL)
    assert "damaged" in line and "leak" not in line


def test_settings_that_had_nothing_to_work_on_are_said():
    settings = evaluate(decoding=["zero_thinking"], judges=[{"prompt": {"url": "https://x/v1", "model": "m"}}])
    lines = notes({}, {"holdout": EMPTY}, [], ALL, settings)
    assert any("zero_thinking asked nothing" in line for line in lines)
    assert any("Nothing was judged by prompt" in line for line in lines)


def test_settings_that_worked_are_not_mentioned():
    results = measured("answer_accuracy@zero_thinking", "trace", unlearned=0.1)
    results += measured("trace_category.unsafe", "trace", unlearned=0.1)
    settings = evaluate(decoding=["zero_thinking"], judges=[{"prompt": {"url": "https://x/v1", "model": "m"}}])
    assert notes({}, {"holdout": EMPTY}, results, ALL, settings) == []
    assert notes({}, {"holdout": EMPTY}, [], ALL, evaluate()) == []


def evaluate(**fields):
    return EvaluateSection.model_validate({"data": {"forget": {"path": "x.jsonl"}}} | fields)
