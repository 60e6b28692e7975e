import pytest

from temper.assess.metrics.exact_memorization import ExactMemorization, exact_memorization
from tests.assess.builders import answers, item, record


def test_it_is_the_share_of_right_first_choices():
    assert exact_memorization(record([-1.0] * 4, hit=[True, False, True, True])) == pytest.approx(0.75)


def test_the_end_token_is_left_out():
    assert exact_memorization(record([-1.0] * 3, hit=[True, False, False], eos_last=True)) == pytest.approx(0.5)


def test_a_last_token_that_is_no_end_token_counts():
    assert exact_memorization(record([-1.0] * 2, hit=[True, False])) == pytest.approx(0.5)


def test_a_row_that_is_only_an_end_token_is_dropped_and_counted():
    measure = ExactMemorization().compute({"forget": answers([item()], records=[record([-1.0], eos_last=True)])})[0]
    result = measure.result("unlearned", seed=0, resamples=100)
    assert (result.value, result.status, result.dropped) == (None, "skipped", 1)
