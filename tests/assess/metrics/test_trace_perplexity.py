import math

import pytest

from temper.assess.measure import Answers
from temper.assess.metrics.trace_perplexity import TracePerplexity
from temper.assess.tracepass import TRACE_IS_EMPTY
from tests.assess.builders import by_name, item, record

NAME = "trace_health.nll_original"
THINKS = " so</think> R"


def results(role, nlls, responses):
    items = [item(str(number), response=response) for number, response in enumerate(responses)]
    given = Answers(items, [record([-1.0]) for _ in items], [" x"] * len(items), (), nlls)
    found = by_name(TracePerplexity().compute({role: given}))
    return found.get((NAME, role))


def test_the_mean_is_of_nats_and_the_perplexity_stands_beside_it():
    found = results("trace", [1.0, 3.0, None], [THINKS, THINKS, " R"])
    result = found.result("unlearned", seed=0, resamples=100)
    assert (result.value, result.n, result.dropped, result.better) == (2.0, 2, 0, "gold")
    assert result.reason == f"as a perplexity: {math.exp(2):.3g}"


def test_an_empty_trace_is_left_out_with_the_reason():
    found = results("reasoning", [0.5, TRACE_IS_EMPTY], [THINKS, THINKS])
    assert found.dropped == {TRACE_IS_EMPTY: 1} and found.values.tolist() == [0.5] and found.better == "lower"


def test_numbers_that_are_not_finite_fail():
    result = results("trace", [math.nan], [THINKS]).result("unlearned", seed=0, resamples=100)
    assert (result.value, result.status) == (None, "failed")


def test_garble_beyond_any_float_has_a_number():
    assert results("trace", [5000.0], [THINKS]).result("unlearned", seed=0, resamples=100).value == pytest.approx(5000.0)


def test_without_an_original_there_is_no_number():
    found = results("trace", (), [THINKS])
    result = found.result("unlearned", seed=0, resamples=100)
    assert (result.value, result.status, result.reason) == (None, "no_original", "no original model was scored")


def test_roles_that_do_not_think_have_none():
    assert results("forget", [None], [" R"]) is None
