from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.data import RolePairs
from temper.data.tokenise import Encoded, Item
from temper.errors import DataError


def rows(*sizes, weights=None):
    items = [Item(str(n), (1, 2), (-100, 2), {}, "", "") for n in range(sum(sizes))]
    owners = [source for source, size in enumerate(sizes) for _ in range(size)]
    return Encoded(items, [], owners, list(weights or [1.0] * len(sizes)))


def draws(pairs, role, count):
    return [pairs[n][role] for n in range(count)]


@settings(max_examples=60, deadline=None)
@given(forget=st.integers(1, 12), retain=st.integers(1, 9), seed=st.integers(0, 5))
def test_every_pass_over_a_role_visits_each_row_once(forget, retain, seed):
    pairs = RolePairs({"forget": rows(forget), "retain": rows(retain)}, anchor="forget", seed=seed, length=3 * forget * retain)
    for role, size in (("forget", forget), ("retain", retain)):
        found = draws(pairs, role, 3 * forget * retain)
        for start in range(0, len(found), size):
            assert sorted(found[start : start + size]) == list(range(size))


def test_a_sample_does_not_depend_on_which_others_were_read_or_on_the_length():
    make = lambda length: RolePairs({"forget": rows(7), "retain": rows(5, 3)}, anchor="forget", seed=1, length=length)  # noqa: E731
    assert make(100)[42] == make(50)[42] == next(make(60)[n] for n in (42, 3))


def test_another_seed_gives_another_order():
    one, two = (RolePairs({"forget": rows(50)}, anchor="forget", seed=seed, length=50) for seed in (0, 1))
    assert draws(one, "forget", 50) != draws(two, "forget", 50)


def test_epochs_have_different_orders():
    pairs = RolePairs({"forget": rows(50)}, anchor="forget", seed=0, length=100)
    assert draws(pairs, "forget", 50) != [pairs[n]["forget"] for n in range(50, 100)]


@settings(max_examples=30, deadline=None)
@given(weights=st.lists(st.floats(0.1, 5.0), min_size=2, max_size=4), start=st.integers(0, 500))
def test_any_stretch_of_draws_holds_the_sources_by_weight(weights, start):
    retain = rows(*[6] * len(weights), weights=weights)
    pairs = RolePairs({"forget": rows(4), "retain": retain}, anchor="forget", seed=2, length=1000)
    found = Counter(retain.source_of[pairs[n]["retain"]] for n in range(start, start + 400))
    for source, weight in enumerate(weights):
        assert abs(found[source] - 400 * weight / sum(weights)) <= 8


def test_within_a_source_no_row_comes_twice_before_all_came_once():
    retain = rows(5, 7, weights=[1.0, 2.0])
    pairs = RolePairs({"forget": rows(4), "retain": retain}, anchor="forget", seed=2, length=300)
    found = draws(pairs, "retain", 300)
    for source, size in ((0, 5), (1, 7)):
        mine = [row for row in found if retain.source_of[row] == source]
        for start in range(0, len(mine) - size + 1, size):
            assert len(set(mine[start : start + size])) == size


def test_an_anchor_without_data_is_refused():
    with pytest.raises(DataError, match="train.anchor = 'retain' has no data"):
        RolePairs({"forget": rows(2)}, anchor="retain", seed=0, length=4)


def test_samples_past_the_end_do_not_exist():
    pairs = RolePairs({"forget": rows(2)}, anchor="forget", seed=0, length=4)
    with pytest.raises(IndexError):
        pairs[4]


def test_sources_of_unequal_weight_are_refused_on_the_anchor():
    with pytest.raises(DataError, match="every row of the anchor role is visited once an epoch"):
        RolePairs({"forget": rows(2, 3, weights=[9.0, 1.0])}, anchor="forget", seed=0, length=4)
