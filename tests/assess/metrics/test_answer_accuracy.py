import pytest

from temper.assess.metrics.answer_accuracy import AnswerAccuracy, reading
from temper.assess.metrics.thoughts import lenient_answer_is, strict_answer, trace_of
from tests.assess.builders import answers, by_name, item

DIRECT, THINKING = "Q <think> </think>", "Q <think>"


@pytest.mark.parametrize(
    ("prompt", "continuation", "strict", "lenient", "wrong", "empty"),
    [
        (DIRECT, " Rome", 1, 1, 0, 0),
        (DIRECT, " Rome and more", 0, 1, 1, 0),
        (DIRECT, " Romeo", 0, 0, 1, 0),
        (DIRECT, " Oslo", 0, 0, 1, 0),
        (DIRECT, "", 0, 0, 0, 1),
        (DIRECT, "  ", 0, 0, 0, 1),
        (THINKING, " So it is Rome.</think> Rome", 1, 1, 0, 0),
        (THINKING, " So.</think> Rome Rome Rome", 0, 1, 1, 0),
        (THINKING, " So.</think> Oslo</think> Rome", 1, 1, 0, 0),
        (THINKING, " So it is Rome.</think>", 0, 0, 0, 1),
        (THINKING, " So.</think> Rome</think> Oslo", 0, 1, 1, 0),
        (THINKING, " Rome Rome Rome", 0, 0, 1, 0),
        (THINKING, " Rome", 1, 1, 0, 0),
        ("Q", "Rome.", 0, 1, 1, 0),
        ("Q", "<think> hm</think>Rome", 1, 1, 0, 0),
        ("Q", "<think> Rome", 0, 0, 1, 0),
    ],
)
def test_readings(prompt, continuation, strict, lenient, wrong, empty):
    assert reading(prompt, continuation, "Rome") == (strict, lenient, wrong, empty)


def test_an_answer_with_signs_of_regular_expressions_is_taken_as_text():
    assert lenient_answer_is(DIRECT, " 3+4 (x)", "3+4 (x)")
    assert not lenient_answer_is(DIRECT, " 3344", "3+4")


@pytest.mark.parametrize("prompt", [DIRECT, THINKING, "Q"])
@pytest.mark.parametrize(
    "text", ["7", " x</think> 7", " 7</think> 3", " 3</think> 7", "</think>7 is it</think> 7", "7</think>", "<think> 7"]
)
def test_nothing_is_right_strictly_and_wrong_leniently(prompt, text):
    strict, lenient, *_ = reading(prompt, text, "7")
    assert lenient >= strict


def test_a_number_is_not_the_beginning_of_a_longer_one():
    assert not lenient_answer_is(DIRECT, " 13.5", "13") and not lenient_answer_is(DIRECT, " 13,000", "13")
    assert lenient_answer_is(DIRECT, " 13. Then", "13") and lenient_answer_is(DIRECT, " 13, I think", "13")


def placed(response, text, **row):
    given = answers([item("a", prompt=DIRECT, response=response, **row)], [text])
    found = by_name(AnswerAccuracy().compute({"forget": given}))
    return found["answer_accuracy", "forget"].values.tolist() if found else None


def test_an_answer_that_is_a_place_is_read_as_the_reference_answer_writes_it():
    towns = {"options": ["Rome", "Bern"], "answer": 1}
    assert placed(" hm</think> Bern", " x</think> Bern", **towns) == [1.0]
    assert placed(" hm</think> Bern", " x</think> Rome", **towns) == [0.0]
    assert placed(" B", " B", **towns) == placed(" B", " B", choices=[" A", " B"], answer=1) == [1.0]
    assert placed(" B", " Bern", **towns) == [0.0]


def test_a_place_whose_reference_answer_says_more_is_left_to_final_answer():
    assert placed("</think>\n\n**Final Answer:** B", " B", options=["Rome", "Bern"], answer=1) is None
    items = [item("a", prompt=DIRECT, response=" Final Answer: B", options=["Rome", "Bern"], answer=1), item("b", answer="Rome")]
    found = by_name(AnswerAccuracy().compute({"forget": answers(items, [" B", " Rome"])}))["answer_accuracy", "forget"]
    assert found.values.tolist() == [1.0] and "final_answer reads it" in next(iter(found.dropped))


def test_a_number_that_is_no_place_of_anything_says_so():
    items = [item("a", prompt=DIRECT, answer=7), item("b", answer="Rome")]
    found = by_name(AnswerAccuracy().compute({"forget": answers(items, [" 7", " Rome"])}))["answer_accuracy", "forget"]
    assert list(found.dropped) == ["its answer is a number and no text, and it has neither options nor choices"]


def test_correct_wrong_and_empty_add_up_to_one():
    items = [item(str(number), prompt=DIRECT, answer="Rome") for number in range(3)]
    found = by_name(AnswerAccuracy().compute({"forget": answers(items, [" Rome", " Oslo", ""])}))
    shares = [found[f"answer_accuracy{part}", "forget"].values.mean() for part in ("", ".wrong", ".empty")]
    assert shares == pytest.approx([1 / 3, 1 / 3, 1 / 3])


def test_rows_without_an_answer_column_are_counted():
    found = by_name(AnswerAccuracy().compute({"forget": answers([item("a", answer="Rome"), item("b")], ["</think> Rome", " x"])}))
    result = found["answer_accuracy", "forget"].result("gold", seed=0, resamples=100)
    assert (result.value, result.n, result.dropped, result.model) == (1.0, 1, 1, "gold")
    assert result.reason == "1 of 2 rows left out: it has no answer column"


def test_a_role_without_answers_gives_no_number():
    assert AnswerAccuracy().compute({"forget": answers([item()], [" x"])}) == []


def test_the_strict_answer_is_what_follows_the_last_thought():
    assert strict_answer(" a</think> b</think> c ") == "c"


def test_a_trace_ends_at_the_last_closing_tag_and_leaves_out_its_own_opening():
    text = "<think> a</think> b</think> c"
    assert text[slice(*trace_of(text))] == " a</think> b"
    assert trace_of(" never closed") == (0, 13)
