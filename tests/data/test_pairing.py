from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.data import RolePairs
from temper.data.tokenise import Encoded, Item
from temper.draws import generator
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


# ---- a literal of the draws ----


def literal_draws(seed, role, source_of, weights, length):
    """Return the rows of plain sources as they are to be drawn: by weight over sources, then row by row from permutations."""
    members = [np.flatnonzero(np.array(source_of) == source) for source in range(len(weights))]
    borders = np.cumsum(np.array(weights) / np.sum(weights))
    points = (generator(seed, "sources", role).random() + np.arange(length) * (5**0.5 - 1) / 2) % 1.0
    owners = np.minimum(np.searchsorted(borders, points, side="right"), len(borders) - 1)
    drawn = [0] * len(weights)
    found = []
    for owner in owners:
        turn, place = divmod(drawn[owner], len(members[owner]))
        permutation = generator(seed, "order", role, int(owner), turn).permutation(len(members[owner]))
        found.append(int(members[owner][permutation[place]]))
        drawn[owner] += 1
    return found


@pytest.mark.parametrize(("sizes", "weights"), [((6,), (1.0,)), ((5, 9), (1.0, 2.5)), ((3, 4, 2), (0.3, 1.0, 7.0))])
@pytest.mark.parametrize("seed", [0, 3])
def test_rows_of_plain_sources_are_drawn_as_a_literal_of_the_algorithm_says(sizes, weights, seed):
    retain = rows(*sizes, weights=weights)
    pairs = RolePairs({"forget": rows(4), "retain": retain}, anchor="forget", seed=seed, length=120)
    assert draws(pairs, "retain", 120) == literal_draws(seed, "retain", retain.source_of, weights, 120)


def test_rows_that_name_a_document_of_their_own_are_drawn_like_rows_that_name_none():
    plain, named = rows(5, 4), documents([["a"], ["b"], ["c"], ["d"], ["e"]], [["a"], ["f"], ["g"], ["h"]])
    both = (RolePairs({"forget": rows(3), "retain": found}, anchor="forget", seed=1, length=60) for found in (plain, named))
    one, two = (draws(pairs, "retain", 60) for pairs in both)
    assert one == two


# ---- documents ----


def documents(*sources, topics=None):
    """Return rows cut from documents; a source is a list of documents, each a list that has the document's name for each row."""
    items, owners = [], []
    for number, source in enumerate(sources):
        for name in [name for document in source for name in document]:
            topic = "default" if topics is None else topics[number]
            items.append(Item(str(len(items)), (1, 2), (-100, 2), {}, "", "", document=name, topic=topic))
            owners.append(number)
    return Encoded(items, [], owners, [1.0] * len(sources))


def test_documents_are_drawn_equally_often_whatever_was_cut_from_them_and_their_rows_take_turns():
    trace = documents([["a"] * 3, ["b"], ["c"] * 2])
    pairs = RolePairs({"forget": rows(4), "trace": trace}, anchor="forget", seed=0, length=60)
    found = draws(pairs, "trace", 60)
    names = [trace.items[row].document for row in found]
    for start in range(0, 60, 3):
        assert sorted(names[start : start + 3]) == ["a", "b", "c"]
    of = {name: [row for row, other in zip(found, names, strict=True) if other == name] for name in "abc"}
    assert of["a"] == [0, 1, 2] * 6 + [0, 1] and of["b"] == [3] * 20 and of["c"] == [4, 5] * 10


def test_a_document_of_another_source_with_the_same_name_is_another_document():
    trace = documents([["a", "a"]], [["a"]])
    pairs = RolePairs({"forget": rows(4), "trace": trace}, anchor="forget", seed=0, length=100)
    counts = Counter(draws(pairs, "trace", 100))
    assert abs(counts[2] - 50) <= 2 and abs(counts[0] - 25) <= 2 and abs(counts[1] - 25) <= 2


# ---- topics that take turns ----


def topical(*topics, size=4):
    return documents(*([[f"{topic}{n}"] for n in range(size)] for topic in topics), topics=topics)


@pytest.mark.parametrize("turns", [("a", "b"), ("a", "b", "c")])
def test_a_step_is_about_one_topic_in_every_role_that_knows_topics(turns):
    roles = {"forget": topical(*turns), "trace": topical(*reversed(turns), size=3), "retain": rows(7)}
    pairs = RolePairs(roles, anchor="forget", seed=0, length=72, step=4, window=6, turns=turns)
    for index in range(72):
        expected = turns[index // 4 % len(turns)]
        sample = pairs[index]
        assert {roles[role].items[sample[role]].topic for role in ("forget", "trace")} == {expected}
    assert {pairs[index]["retain"] for index in range(72)} == set(range(7)), "a role without topics serves all steps"


def test_the_rows_of_a_topic_all_come_once_before_one_comes_again():
    roles = {"forget": topical("a", "b")}
    pairs = RolePairs(roles, anchor="forget", seed=0, length=64, step=2, turns=("a", "b"))
    for topic in "ab":
        mine = [row for row in draws(pairs, "forget", 64) if roles["forget"].items[row].topic == topic]
        assert len(mine) == 32
        for start in range(0, 32, 4):
            assert len(set(mine[start : start + 4])) == 4


def test_sources_about_one_topic_share_its_turns_by_weight():
    trace = documents([["x"]], [["y"]], [["z"]], topics=("a", "a", "b"))
    trace = Encoded(trace.items, [], trace.source_of, [3.0, 1.0, 1.0])
    pairs = RolePairs(
        {"forget": topical("a", "b"), "trace": trace}, anchor="forget", seed=0, length=400, step=1, turns=("a", "b")
    )
    counts = Counter(draws(pairs, "trace", 400))
    assert counts[2] == 200 and abs(counts[0] - 150) <= 2 and abs(counts[1] - 50) <= 2


def test_a_topic_without_rows_is_named_with_those_that_have_some():
    roles = {"forget": topical("a", "b"), "trace": topical("a")}
    with pytest.raises(DataError, match=r"data.trace: has no rows about the topic 'b'; its topics: a"):
        RolePairs(roles, anchor="forget", seed=0, length=8, turns=("a", "b"))


def test_a_role_about_none_of_the_topics_serves_all_of_them():
    roles = {"forget": topical("a", "b"), "retain": topical("general")}
    pairs = RolePairs(roles, anchor="forget", seed=0, length=16, step=2, turns=("a", "b"))
    assert set(draws(pairs, "retain", 16)) == {0, 1, 2, 3}


def test_one_topic_has_no_turns_to_take():
    both = (
        RolePairs({"forget": topical("a"), "retain": rows(5)}, anchor="forget", seed=0, length=40, turns=t) for t in ((), ("a",))
    )
    one, two = ([pairs[index] for index in range(40)] for pairs in both)
    assert one == two


def test_an_anchor_whose_topics_take_turns_draws_its_sources_by_their_size():
    """Rows of one topic are read equally often, whatever source they stand in."""
    forget = documents([[f"a{n}"] for n in range(10)], [["b0"], ["b1"]], [[f"c{n}"] for n in range(12)], topics=("a", "a", "c"))
    pairs = RolePairs({"forget": forget}, anchor="forget", seed=0, length=480, turns=("a", "c"))
    counts = Counter(draws(pairs, "forget", 480))
    assert set(counts) == set(range(24)) and all(18 <= count <= 22 for count in counts.values())


def test_an_anchor_without_topics_is_walked_as_ever_while_others_take_turns():
    roles = {"forget": topical("a", "b"), "retain": rows(10, 3)}
    pairs = RolePairs(roles, anchor="retain", seed=0, length=26, turns=("a", "b"))
    found = draws(pairs, "retain", 26)
    assert sorted(found[:13]) == sorted(found[13:]) == list(range(13))
    assert [roles["forget"].items[row].topic for row in draws(pairs, "forget", 26)] == ["a", "b"] * 13
