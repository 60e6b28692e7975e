"""Rows of like length in one step: which rows a window holds stays, how much padding they cost falls."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.data import RolePairs, collate
from temper.data.tokenise import Encoded, Item
from temper.draws import generator


def rows(*lengths):
    """Return rows of these lengths."""
    items = [Item(str(n), (1,) * size, (-100, *(2,) * (size - 1)), {}, "", "") for n, size in enumerate(lengths)]
    return Encoded(items, [], [0] * len(items), [1.0])


def unequal(seed, count, longest=60):
    return rows(*(int(size) for size in generator(seed, "lengths").integers(2, longest, count)))


def pairs_of(forget, retain, *, window, step=4, length=96, seed=0):
    roles = {"forget": forget, **({"retain": retain} if retain is not None else {})}
    return RolePairs(roles, anchor="forget", seed=seed, length=length, step=step, window=window)


def draws(pairs, role, start=0, stop=None):
    return [pairs.draw(role, index) for index in range(start, len(pairs) if stop is None else stop)]


def padded(pairs, roles, step):
    """Return the tokens that steps of all roles take, padding included."""
    total = 0
    for start in range(0, len(pairs), step):
        batch = collate([pairs[index] for index in range(start, min(start + step, len(pairs)))], roles, 0)
        total += sum(tensors["input_ids"].numel() for tensors in batch.values())
    return total


@settings(max_examples=40, deadline=None)
@given(
    window=st.integers(2, 9),
    step=st.integers(1, 5),
    length=st.integers(1, 90),
    seed=st.integers(0, 4),
    forget=st.integers(1, 17),
    retain=st.integers(1, 23),
)
def test_a_window_holds_the_rows_it_would_hold_without_grouping(window, step, length, seed, forget, retain):
    made = [
        pairs_of(unequal(1, forget), unequal(2, retain), window=wanted, step=step, length=length, seed=seed)
        for wanted in (0, window)
    ]
    for role in ("forget", "retain"):
        for start in range(0, length, window * step):
            stop = min(start + window * step, length)
            plain, grouped = (Counter(draws(pairs, role, start, stop)) for pairs in made)
            assert plain == grouped  # rows with the epoch they were drawn in


@settings(max_examples=30, deadline=None)
@given(window=st.integers(2, 9), step=st.integers(1, 5), length=st.integers(2, 90), order=st.randoms(use_true_random=False))
def test_a_sample_does_not_depend_on_which_were_read_before(window, step, length, order):
    forget, retain = unequal(1, 13), unequal(2, 29)
    first = pairs_of(forget, retain, window=window, step=step, length=length)
    expected = [first[index] for index in range(length)]
    places = list(range(length))
    order.shuffle(places)
    again = pairs_of(forget, retain, window=window, step=step, length=length)
    assert {place: again[place] for place in places} == dict(enumerate(expected))


def test_reading_from_the_middle_of_a_window_gives_the_rest_of_it():
    forget, retain = unequal(1, 13), unequal(2, 29)
    whole, resumed = (pairs_of(forget, retain, window=8) for _ in range(2))
    expected = [whole[index] for index in range(len(whole))]
    assert [resumed[index] for index in range(13, len(resumed))] == expected[13:]


@pytest.mark.parametrize(("batch", "accumulation"), [(1, 8), (2, 4), (4, 2)])
def test_the_rows_of_a_step_do_not_depend_on_how_it_is_split(batch, accumulation):
    forget, retain = unequal(1, 40), unequal(2, 50)
    whole, split = (pairs_of(forget, retain, window=8, step=8) for _ in range(2))
    step = [whole[index] for index in range(8, 16)]
    parts = [[split[8 + part * batch + index] for index in range(batch)] for part in range(accumulation)]
    assert [sample for part in parts for sample in part] == step


def test_rows_of_very_unequal_lengths_need_far_less_padding():
    forget, retain = unequal(1, 96, longest=200), unequal(2, 300, longest=200)
    roles = {"forget": forget, "retain": retain}
    plain, grouped = (pairs_of(forget, retain, window=window, step=8, length=192) for window in (0, 8))
    tokens = sum(len(roles[role].items[row].input_ids) for role in roles for row, _ in draws(grouped, role))
    before, after = padded(plain, roles, 8), padded(grouped, roles, 8)
    assert after - tokens < 0.3 * (before - tokens)


def test_forget_and_retain_rows_of_a_step_are_of_like_length():
    forget, retain = unequal(1, 96, longest=200), unequal(2, 300, longest=200)
    found = []
    for window in (0, 8):
        pairs = pairs_of(forget, retain, window=window, step=8, length=192)
        means = [
            [
                sum(len(role.items[row].input_ids) for row, _ in draws(pairs, name, start, start + 8)) / 8
                for name, role in (("forget", forget), ("retain", retain))
            ]
            for start in range(0, 192, 8)
        ]
        found.append(torch.corrcoef(torch.tensor(means).T)[0, 1].item())
    assert found[1] > 0.9 > found[0]


def test_the_steps_of_a_window_are_not_taken_from_short_to_long():
    pairs = pairs_of(unequal(1, 64, longest=200), None, window=8, step=4, length=64)
    longest = [max(row for row, _ in draws(pairs, "forget", start, start + 4)) for start in range(0, 64, 4)]
    assert longest[:8] != sorted(longest[:8]) or longest[8:] != sorted(longest[8:])


def test_every_row_of_the_anchor_still_comes_once_an_epoch():
    # 12 rows, windows of 6: two windows an epoch
    pairs = pairs_of(unequal(1, 12), unequal(2, 7), window=3, step=2, length=36)
    for epoch in range(3):
        assert sorted(row for row, _ in draws(pairs, "forget", 12 * epoch, 12 * epoch + 12)) == list(range(12))


def test_a_window_of_one_step_leaves_rows_as_they_are_drawn():
    forget, retain = unequal(1, 13), unequal(2, 29)
    assert draws(pairs_of(forget, retain, window=1), "retain") == draws(pairs_of(forget, retain, window=0), "retain")


def test_only_near_windows_are_kept_in_memory():
    pairs = pairs_of(unequal(1, 13), unequal(2, 29), window=2, step=2, length=400)
    for index in range(400):
        pairs[index]
    assert len(pairs._dealt) <= 4
