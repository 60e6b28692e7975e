import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from temper.assess.judges import Verdict
from temper.assess.judges.agreement import CATEGORIES, agreement, kappa_of
from temper.errors import InputError


def verdicts(categories):
    return [Verdict(None if name == "INVALID" else name) for name in categories]


@pytest.mark.parametrize("seed", range(5))
def test_kappa_and_table_are_those_of_an_independent_computation(seed):
    rng = np.random.default_rng(seed)
    first = rng.choice(CATEGORIES, size=60)
    second = np.where(rng.random(60) < 0.6, first, rng.choice(CATEGORIES, size=60))
    found = agreement(verdicts(first), verdicts(second))
    assert found.kappa == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    assert found.raw == pytest.approx((first == second).mean())
    expected = [[int(((first == row) & (second == column)).sum()) for column in CATEGORIES] for row in CATEGORIES]
    assert found.table.tolist() == expected and found.n == 60


def test_kappa_by_hand():
    # agree on 1 of 2: p_o = .5; the first says C1 half, C4 half, the second C1 always: p_e = .5
    assert agreement(verdicts(["C1", "C4"]), verdicts(["C1", "C1"])).kappa == pytest.approx(0.0)


def test_an_invalid_verdict_is_a_category_of_its_own():
    found = agreement(verdicts(["INVALID", "C1"]), verdicts(["INVALID", "C1"]))
    assert (found.raw, found.kappa, found.table[4, 4]) == (1.0, 1.0, 1)


def test_where_both_use_one_category_alone_kappa_is_not_defined():
    found = agreement(verdicts(["C1"] * 9), verdicts(["C1"] * 9))
    assert (found.raw, found.kappa, found.interval(seed=0, key="trace", resamples=100)) == (1.0, None, None)


def test_without_cases_there_is_nothing():
    found = agreement([], [])
    assert (found.n, found.raw, found.kappa, found.interval(seed=0, key="trace", resamples=100)) == (0, None, None, None)


def test_the_interval_holds_kappa_repeats_and_narrows_with_cases():
    rng = np.random.default_rng(0)
    first = rng.choice(CATEGORIES, size=400)
    second = np.where(rng.random(400) < 0.7, first, "C1")
    few, many = (agreement(verdicts(first[:n]), verdicts(second[:n])) for n in (40, 400))
    low, high = many.interval(seed=1, key="trace", resamples=500)
    assert low < many.kappa < high and (low, high) == many.interval(seed=1, key="trace", resamples=500)
    wide_low, wide_high = few.interval(seed=1, key="trace", resamples=500)
    assert wide_high - wide_low > high - low


def test_the_interval_is_that_of_resampled_cases():
    rng = np.random.default_rng(0)
    first = rng.choice(CATEGORIES, size=80)
    second = np.where(rng.random(80) < 0.7, first, "C1")
    low, high = agreement(verdicts(first), verdicts(second)).interval(seed=1, key="trace", resamples=2000)
    drawn = [cohen_kappa_score(first[place], second[place]) for place in rng.integers(0, 80, size=(300, 80))]
    assert np.percentile(drawn, [2.5, 97.5]) == pytest.approx([low, high], abs=0.05)


def test_lists_of_other_lengths_are_refused():
    with pytest.raises(InputError, match="2 and 1 verdicts"):
        agreement(verdicts(["C1", "C1"]), verdicts(["C1"]))


def test_kappa_of_many_tables_is_that_of_each():
    tables = np.array([[[2.0, 1.0], [0.0, 3.0]], [[5.0, 0.0], [0.0, 0.0]]])
    both = kappa_of(tables)
    assert both[0] == pytest.approx(kappa_of(tables[:1])[0]) and np.isnan(both[1])
