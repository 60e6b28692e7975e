import pytest
from hypothesis import given
from hypothesis import strategies as st

from temper.assess.metrics.exact_memorization import exact_memorization
from temper.assess.metrics.extraction_strength import extraction_strength
from tests.assess.builders import record


@pytest.mark.parametrize(
    ("hit", "expected"),
    [
        ([True, True, True, True], 1.0),
        ([False, False, False, False], 0.0),
        ([False, False, False, True], 0.25),
        ([True, True, True, False], 0.0),
        ([True, False, True, True], 0.5),
        ([False, True, True, True], 0.75),
        ([True], 1.0),
        ([False], 0.0),
    ],
)
def test_worked_examples(hit, expected):
    assert extraction_strength(record([-1.0] * len(hit), hit=hit)) == pytest.approx(expected)


def test_a_wrong_end_token_takes_nothing_away():
    assert extraction_strength(record([-1.0] * 3, hit=[True, True, False], eos_last=True)) == 1.0


def test_a_row_without_tokens_has_no_value():
    assert extraction_strength(record([])) is None


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_it_never_exceeds_exact_memorization(hit):
    one = record([-1.0] * len(hit), hit=hit)
    assert extraction_strength(one) <= exact_memorization(one) + 1e-12
