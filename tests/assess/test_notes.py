import pytest

from temper.assess.evidence import Result
from temper.assess.notes import notes

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
