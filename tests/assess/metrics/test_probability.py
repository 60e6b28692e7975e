import math

import pytest

from temper.assess.metrics.probability import Probability, probability
from tests.assess.builders import answers, item, record


def test_probability_is_the_geometric_mean_of_the_token_probabilities():
    # 0.5 and 0.125: sqrt(0.0625) = 0.25
    assert probability(record([math.log(0.5), math.log(0.125)])) == pytest.approx(0.25, rel=1e-6)


def test_the_end_token_counts():
    # 0.25 for the answer, 1 for the end: sqrt(0.25) = 0.5
    assert probability(record([math.log(0.25), 0.0], eos_last=True)) == pytest.approx(0.5, rel=1e-6)


def test_a_row_without_tokens_is_dropped_and_counted():
    measure = Probability().compute({"forget": answers([item("a"), item("b")], records=[record([]), record([0.0])])})[0]
    result = measure.result("unlearned", seed=0, resamples=100)
    assert (result.value, result.n, result.dropped) == (1.0, 1, 1)


def test_a_row_with_nan_is_dropped_as_failed_and_named():
    measure = Probability().compute({"forget": answers([item("a"), item("b")], records=[record([math.nan]), record([0.0])])})[0]
    assert measure.failed == 1
    assert "no finite numbers" in measure.result("unlearned", seed=0, resamples=100).reason


def test_a_role_where_every_row_failed_has_no_value():
    measure = Probability().compute({"forget": answers([item()], records=[record([0.0], mu=[math.inf])])})[0]
    result = measure.result("unlearned", seed=0, resamples=100)
    assert (result.value, result.status, result.n, result.dropped) == (None, "failed", 0, 1)


def test_less_is_better_on_forgotten_rows_and_more_on_kept_ones():
    found = Probability().compute({role: answers([item()]) for role in ("forget", "trace", "retain", "holdout")})
    assert [measure.better for measure in found] == ["lower", "lower", "higher", "gold"]
