import pytest

from temper.assess.metrics.rouge import Rouge, rouge
from tests.assess.builders import answers, by_name, item


def test_worked_example():
    # reference a b c d, continuation a x c: the longest common subsequence is a c
    # recall 2/4, precision 2/3, F1 = 2 * (1/2)(2/3) / (1/2 + 2/3) = 4/7; words found: a, c
    assert rouge("alpha xray charlie", "alpha bravo charlie delta") == pytest.approx((0.5, 4 / 7, 0.5))


def test_order_matters_for_l_and_not_for_1():
    l_recall, _, one_recall = rouge("bravo alpha", "alpha bravo")
    assert (l_recall, one_recall) == (0.5, 1.0)


def test_an_empty_continuation_scores_zero():
    assert rouge("", "alpha bravo") == (0.0, 0.0, 0.0)


def test_a_continuation_of_special_tokens_alone_scores_zero():
    assert rouge("<pad><pad>", "alpha") == (0.0, 0.0, 0.0)


def test_rows_without_a_prompt_are_counted_and_roles_of_text_skipped():
    found = by_name(
        Rouge().compute(
            {
                "forget": answers([item("a", response="alpha"), item("b")], ["alpha", None]),
                "general": answers([item("c", prompt="")], [None]),
            }
        )
    )
    assert set(found) == {("rouge.l_recall", "forget"), ("rouge.l_f1", "forget"), ("rouge.1_recall", "forget")}
    result = found["rouge.l_recall", "forget"].result("unlearned", seed=0, resamples=100)
    assert (result.value, result.n, result.dropped) == (1.0, 1, 1)
