"""Stories and drills."""

from __future__ import annotations

import re

from temper.draws import generator
from temper.world.arithmetic import Story, distinct_stories, drills, pair_stories, story


def test_stories_are_right_and_reserved_combinations_stay_apart() -> None:
    assert Story(4, 3, 2, "pens").told().answer == "5"
    rng = generator(0, "stories")
    used = {(s.have, s.get, s.give) for s in (story(rng, reserved=False) for _ in range(400))}
    kept = {(s.have, s.get, s.give) for s in (story(rng, reserved=True) for _ in range(400))}
    assert not used & kept


def test_distinct_stories_do_not_repeat() -> None:
    for reserved in (False, True):
        told = distinct_stories(generator(0, "distinct"), 200, reserved=reserved)
        assert len(set(told)) == 200
        assert {one.reserved for one in told} == {reserved}


def test_drills_are_true() -> None:
    for drill in drills():
        if "=" in drill:
            left, right = drill.rstrip(".").split("=")
            a, sign, b = left.split()
            assert int(a) + (int(b) if sign == "+" else -int(b)) == int(right)
        else:
            a, b, larger = re.findall(r"\d+", drill)
            assert a != b
            assert max(int(a), int(b)) == int(larger)


def test_stories_of_two_counts_are_right_and_cover_every_pair() -> None:
    told = pair_stories(generator(0, "pairs"))
    pairs = []
    for asked in told:
        a, one, b, two = re.match(r"I have (\d+) (\w+) and (\d+) (\w+)\.", asked.prompt).groups()  # type: ignore[union-attr]
        more = one if int(a) > int(b) else two
        assert asked.answer == (more if "more" in asked.prompt else str(int(a) + int(b)))
        assert asked.response.endswith(f"So the answer is {asked.answer}. </think> {asked.answer}")
        pairs.append((a, b, "more" in asked.prompt))
    assert len(set(pairs)) == len(pairs) == 64 + 56
