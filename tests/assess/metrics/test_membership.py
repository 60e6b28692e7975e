import math
import zlib

import numpy as np
import pytest

from temper.assess.metrics.membership import Membership, loss, min_k, min_k_plus, zlib_ratio
from tests.assess.builders import answers, by_name, item, record


def test_loss_is_the_mean_over_all_tokens():
    assert loss(record([-1.0, -3.0], eos_last=True)) == pytest.approx(2.0)


def test_zlib_divides_by_the_compressed_length_of_the_answer():
    text = "aaaaaaaaaaaaaaaa"
    assert zlib_ratio(record([-4.0]), text) == pytest.approx(4.0 / len(zlib.compress(text.encode())))


def test_min_k_takes_the_lowest_two_fifths():
    # five tokens: the lowest two are -5 and -3
    assert min_k(record([-1.0, -5.0, -2.0, -3.0, -0.5])) == pytest.approx(4.0)


def test_min_k_takes_at_least_one_and_never_the_end_token():
    assert min_k(record([-2.0, -9.0], eos_last=True)) == pytest.approx(2.0)
    assert min_k(record([-9.0], eos_last=True)) is None


def test_min_k_plus_standardises_each_token():
    # z = (-1 + 2) / 2 = 0.5 and (-4 + 1) / 3 = -1; one of two is taken
    assert min_k_plus(record([-1.0, -4.0], mu=[-2.0, -1.0], var=[4.0, 9.0])) == pytest.approx(1.0)


def test_min_k_plus_has_a_floor_under_the_variance():
    assert min_k_plus(record([-0.001], mu=[0.0], var=[0.0])) == pytest.approx(0.001 / math.sqrt(1e-6), rel=1e-5)


def side(losses):
    return answers([item(str(n)) for n in range(len(losses))], records=[record([-x], name=str(n)) for n, x in enumerate(losses)])


def results(forget, holdout):
    measures = Membership().compute({"forget": side(forget), "holdout": side(holdout)})
    return {name: measure.result("unlearned", seed=0, resamples=200) for (name, _), measure in by_name(measures).items()}


def test_remembered_rows_give_one_and_forgotten_beyond_gold_gives_zero():
    low, high = list(np.linspace(0.0, 1.0, 40)), list(np.linspace(2.0, 3.0, 40))
    assert results(low, high)["membership.loss"].value == 1.0
    assert results(high, low)["membership.loss"].value == 0.0


def test_equal_scores_give_a_half():
    found = results([1.0] * 40, [1.0] * 40)["membership.loss"]
    assert (found.value, found.low, found.high, found.status) == (0.5, 0.5, 0.5, "ok")


def test_true_positive_rates_are_taken_at_few_false_alarms():
    # the lowest holdout loss is 0.5: at 1 % of 40 no holdout row may be accused, so 10 of 40 members are found
    forget = [0.1] * 10 + [0.7] * 30
    found = results(forget, [0.5] * 4 + [0.9] * 36)
    assert found["membership.loss.tpr_at_1"].value == pytest.approx(0.25)
    assert found["membership.loss.tpr_at_10"].value == 1.0  # four of 40 may be accused


def test_a_small_side_keeps_its_value_and_is_flagged():
    found = results([0.0] * 40, [1.0] * 29)["membership.loss"]
    assert (found.value, found.status) == (1.0, "too_few_items")
    assert "29 non-members" in found.reason


def test_without_holdout_it_is_skipped_with_a_reason():
    results = [m.result("unlearned", seed=0, resamples=100) for m in Membership().compute({"forget": side([1.0])})]
    assert {result.status for result in results} == {"skipped"}
    assert all("holdout" in result.reason and result.value is None for result in results)


def test_failed_rows_are_left_out_of_both_sides_and_counted():
    found = results([0.0] * 39 + [math.nan], [1.0] * 40)["membership.loss"]
    assert (found.value, found.n, found.dropped) == (1.0, 79, 1)
