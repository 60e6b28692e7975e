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


class EMPTY:
    dropped = ()
    items = ()
