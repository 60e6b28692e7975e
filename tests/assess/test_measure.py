import math
from dataclasses import replace

import pytest

from temper.assess.intervals import wilson
from temper.assess.measure import Absent, Whole, knowledge_better, per_item


def result(values, **kwargs):
    return per_item("m", "forget", "lower", values, **kwargs).result("unlearned", seed=0, resamples=100)


def test_the_value_is_the_mean_of_the_items_that_have_one():
    found = result([0.2, None, 0.6, "too short", "too short"])
    assert (found.value, found.n, found.dropped, found.status) == (pytest.approx(0.4), 2, 3, "ok")
    assert found.reason == "1 of 5 rows left out: nothing to score; 2 of 5 rows left out: too short"


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_left_out_and_said(broken):
    found = result([0.5, broken])
    assert (found.value, found.n, found.dropped) == (0.5, 1, 1) and "no finite numbers" in found.reason


def test_nothing_but_broken_values_is_failed_and_nothing_at_all_is_skipped():
    assert (result([math.nan]).status, result([math.nan]).value) == ("failed", None)
    assert (result([None]).status, result([None]).value) == ("skipped", None)
    assert (result([]).status, result([]).reason) == ("skipped", "no rows")


def test_places_say_which_items_a_value_belongs_to():
    assert list(per_item("m", "forget", "lower", [0.1, None, 0.3], [2, 5, 7]).places) == [2, 7]
    assert list(per_item("m", "forget", "lower", [0.1, None, 0.3]).places) == [0, 2]


def test_values_that_are_not_known_widen_the_interval_upward_alone():
    share = per_item("m", "forget", "lower", [1.0, 0.0, 0.0, 0.0])
    known, unknown = (replace(share, unknown=count).result("gold", seed=0, resamples=100) for count in (0, 2))
    assert (unknown.value, unknown.low) == (known.value, known.low) == (0.25, pytest.approx(wilson(1, 4)[0]))
    assert (known.high, unknown.high) == pytest.approx((wilson(1, 4)[1], wilson(3, 4)[1]))


def test_a_count_gets_no_interval_of_a_share():
    found = result([0.0, 0.0, 0.0], is_share=False)
    assert (found.low, found.high) == (0.0, 0.0) and result([0.0, 0.0, 0.0]).high > 0.5


def test_a_number_with_an_interval_of_its_own_lies_inside_it():
    found = Whole("m", "forget", "higher", 4, 0.3, lambda seed, resamples: (0.30000001, 0.5)).result("gold", seed=0, resamples=9)
    assert (found.low, found.high) == (0.3, 0.5)


def test_an_absent_number_has_no_value():
    found = Absent("m", "forget", "gold", "skipped", "no data").result("gold", seed=0, resamples=100)
    assert (found.value, found.low, found.n, found.status, found.reason) == (None, None, 0, "skipped", "no data")


def test_which_way_is_good_depends_on_the_role():
    assert [knowledge_better(role) for role in ("forget", "trace", "holdout", "general")] == ["lower", "lower", "gold", "higher"]
