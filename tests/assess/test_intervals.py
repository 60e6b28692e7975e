import numpy as np
import pytest

from temper.assess import intervals
from temper.draws import generator


def test_wilson_against_the_published_example():
    # 10 of 100: (0.0552, 0.1744), e.g. Agresti and Coull (1998)
    assert intervals.wilson(10, 100) == pytest.approx((0.0552, 0.1744), abs=1e-4)


def test_shares_of_zero_and_one_have_a_width():
    assert intervals.interval_of(np.zeros(20), seed=0, key="x", resamples=100) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert intervals.interval_of(np.ones(20), seed=0, key="x", resamples=100) == pytest.approx((0.8389, 1.0), abs=1e-4)


@pytest.mark.parametrize("n", [1, 3, 48, 144, 1000])
def test_no_interval_of_a_share_leaves_out_its_value(n):
    assert intervals.wilson(0, n)[0] == 0.0 and intervals.wilson(n, n)[1] == 1.0
    for successes in range(n + 1):
        low, high = intervals.wilson(successes, n)
        assert 0.0 <= low <= successes / n <= high <= 1.0


@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3, 7.7])
def test_no_interval_of_a_mean_leaves_out_its_value(value):
    x = np.full(37, value)
    low, high = intervals.bootstrap_mean(x, seed=0, key="x", resamples=100)
    assert low <= x.mean() <= high and high - low < 1e-5


def test_counts_that_happen_to_be_zero_are_no_share():
    assert intervals.interval_of(np.zeros(20), seed=0, key="x", resamples=100, is_share=False) == (0.0, 0.0)
    x = np.array([0.0, 1.0] * 20)
    assert intervals.interval_of(x, seed=0, key="x", resamples=100, is_share=False) == intervals.bootstrap_mean(
        x, seed=0, key="x", resamples=100
    )


def test_the_bootstrap_of_a_mean_comes_near_the_normal_interval():
    x = generator(0, "test").normal(2.0, 1.0, 400)
    low, high = intervals.interval_of(x, seed=0, key="x", resamples=2000)
    half = 1.96 * x.std() / np.sqrt(len(x))
    assert (low, high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.015)


def test_the_same_seed_and_key_give_the_same_interval_and_another_key_another():
    x = generator(0, "test").normal(size=50)
    one = intervals.bootstrap_mean(x, seed=3, key="forget", resamples=250)
    assert one == intervals.bootstrap_mean(x, seed=3, key="forget", resamples=250)
    assert one != intervals.bootstrap_mean(x, seed=3, key="retain", resamples=250)


def test_every_resample_draws_n_items_and_there_are_as_many_as_asked():
    counts = np.concatenate(list(intervals.resample_counts(0, "x", 7, 250)))
    assert counts.shape == (250, 7) and (counts.sum(axis=1) == 7).all()


def test_one_item_says_nothing_about_spread():
    assert intervals.bootstrap_mean([0.3], seed=0, key="x", resamples=100) is None
    assert intervals.bootstrap_auc([0.3], [1.0, 2.0], seed=0, key="x", resamples=100) is None
    assert intervals.wilson(0, 0) is None


def test_auc_counts_ties_half():
    # pairs of (1, 2) with (2, 3): 1<2, 1<3, 2=2, 2<3
    assert intervals.auc([1.0, 2.0], [2.0, 3.0]) == pytest.approx(3.5 / 4)


def test_auc_agrees_with_the_definition_on_random_scores():
    rng = generator(1, "test")
    m, o = rng.integers(0, 9, 33).astype(float), rng.integers(0, 9, 21).astype(float)
    expected = np.mean([(b > a) + 0.5 * (a == b) for a in m for b in o])
    assert intervals.auc(m, o) == pytest.approx(expected)


def plain_bootstrap(members, others, statistic, resamples):
    m, o = np.sort(members), np.sort(others)
    rows = zip(
        np.concatenate(list(intervals.resample_counts(0, "x/members", len(m), resamples))).astype(int),
        np.concatenate(list(intervals.resample_counts(0, "x/others", len(o), resamples))).astype(int),
        strict=True,
    )
    values = [statistic(np.repeat(m, a), np.repeat(o, b)) for a, b in rows]
    return np.percentile(values, [2.5, 97.5])


def test_the_vectorised_auc_bootstrap_equals_the_plain_one():
    rng = generator(2, "test")
    m, o = rng.integers(0, 20, 25).astype(float), rng.integers(3, 23, 31).astype(float)
    found = intervals.bootstrap_auc(m, o, seed=0, key="x", resamples=150)
    assert found == pytest.approx(plain_bootstrap(m, o, intervals.auc, 150))


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 1.0])
def test_the_vectorised_rate_bootstrap_equals_the_plain_one(rate):
    rng = generator(4, "test")
    m, o = rng.integers(0, 20, 25).astype(float), rng.integers(3, 23, 31).astype(float)
    found = intervals.bootstrap_tpr(m, o, rate, seed=0, key="x", resamples=150)
    assert found == pytest.approx(plain_bootstrap(m, o, lambda a, b: intervals.tpr_at(a, b, rate), 150))


def test_the_threshold_accuses_at_most_the_allowed_others():
    others = [1.0, 2.0, 3.0, 4.0]
    assert intervals.tpr_at([0.5, 1.5, 2.5], others, 0.25) == pytest.approx(2 / 3)
    assert intervals.tpr_at([0.5, 1.5, 2.5], others, 0.24) == pytest.approx(1 / 3)


def test_a_random_scorer_gives_a_half_within_its_interval():
    rng = generator(5, "test")
    low, high = intervals.bootstrap_auc(rng.normal(size=200), rng.normal(size=200), seed=0, key="x", resamples=300)
    assert low < 0.5 < high and high - low < 0.15
