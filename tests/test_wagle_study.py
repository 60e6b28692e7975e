"""The study of WAGLE: what its page says of given numbers, and that its points are told apart by all that decides them."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def page(monkeypatch):
    """Return the module of the page; its folder holds scripts, not a package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("wagle_page")


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("wagle_compare")


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("wagle_study")


@pytest.fixture
def figure(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("wagle_figure")


@pytest.fixture
def point(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("wagle_point")


NAMES = ("forget", "forget_seen", "neighbour", "retain", "reasoning", "general")


def reading(neighbour, step=10.0):
    """Return what is read at a level, with this loss of the neighbours."""
    read = {f"{name}.{what}": 0.5 for name in NAMES for what in ("loss", "tokens", "right")}
    return {**read, "neighbour.loss": neighbour, "step": step}


def seeds(*neighbours, share=0.2):
    """Return the points of some seeds; None is a run that did not get there."""
    levels = [[None if value is None else reading(value)] * 4 for value in neighbours]
    return [{"levels": found, "share": share, "cpu_s": 1.5, "steps": 20} for found in levels]


def results(**points):
    """Return the results of one objective on the embedded world; `a_0` stands for a with ratio 0.2."""
    named = {key.replace("_0", "-0.2"): value for key, value in points.items()}
    reference = {which: {k: v for k, v in reading(0.0).items() if k != "step"} for which in ("original", "gold")}
    shares = [0.1, 0.25, 0.5, 1.0]
    return {"world": {"reference": reference, "shares": shares, "levels": [0.5, 1.0, 2.0, 4.0], "points": {"npo": named}}}


def verdict(compare, study, against="random", **points):
    found = compare.verdicts(results(**points), study.ways(), against)
    return {kind: sentences for kind, sentences in found.items() if sentences}


def test_wagle_is_better_only_where_the_mean_and_four_of_five_seeds_say_so(compare, study):
    random = seeds(1.0, 1.0, 1.0, 1.0, 1.0)
    assert list(verdict(compare, study, random_0=random, wagle_0=seeds(0.9, 0.9, 0.9, 0.9, 1.1))) == ["better"]
    assert list(verdict(compare, study, random_0=random, wagle_0=seeds(0.9, 0.9, 0.9, 0.9, 2.1))) == ["open"]
    assert list(verdict(compare, study, random_0=random, wagle_0=seeds(0.9, 0.9, 0.9, 1.1, 1.1))) == ["open"]


def test_where_wagle_keeps_less_than_random_the_page_says_that_it_is_not_better(page, study):
    found = results(random_0=seeds(1.0, 1.0, 1.0, 1.0, 1.0), wagle_0=seeds(1.5, 1.5, 1.5, 1.5, 1.5))
    text = page.page(found, study.ways(), [0, 1, 2, 3, 4])
    assert "WAGLE is not better than random: it keeps less:\n\n- NPO, The embedded world, ratio 0.2: +0.500 nats" in text
    assert "keeps more than random:\n" not in text


def test_three_seeds_decide_nothing(compare, study):
    assert list(verdict(compare, study, random_0=seeds(1.0, 1.0, 1.0), wagle_0=seeds(0.1, 0.1, 0.1))) == ["open"]


def test_equal_numbers_are_no_advantage(compare, study):
    same = seeds(1.0, 1.0, 1.0, 1.0, 1.0)
    assert list(verdict(compare, study, random_0=same, wagle_0=same)) == ["open"]


def at_levels(*neighbours):
    """Return the point of one seed with these losses at the four levels."""
    return {"levels": [None if v is None else reading(v) for v in neighbours], "share": 0.2, "cpu_s": 1.0, "steps": 20}


def test_where_too_few_runs_got_to_the_level_the_next_lower_one_is_compared_and_named(compare, study):
    random = [at_levels(0.1, 0.4, None, None)] * 4 + [at_levels(0.1, 0.4, 0.5, None)]
    found = verdict(compare, study, random_0=random, wagle_0=[at_levels(0.1, 0.3, 0.4, 0.5)] * 5)
    assert found == {"better": ["NPO, The embedded world, ratio 0.2 (at 25 %): -0.100 nats, lower in 5 of 5"]}


def test_runs_that_got_to_no_level_are_not_compared(compare, study):
    found = verdict(compare, study, random_0=seeds(None, None, None, None, None), wagle_0=seeds(0.1, 0.1, 0.1, 0.1, 0.1))
    assert found == {"not reached": ["NPO, The embedded world, ratio 0.2"]}


def test_speed_is_the_steps_of_random_masks_for_each_of_wagle(compare, study):
    slow = [{**at_levels(1.0), "levels": [reading(1.0, step=30.0)] * 4}]
    assert compare.speeds(results(random_0=slow, wagle_0=seeds(1.0)), study.ways()) == [3.0]


def test_differences_are_taken_seed_by_seed_where_both_reached_the_level(compare):
    assert compare.difference([1.0, None, 3.0], [0.5, 1.0, 4.0]) == "-0.25 (1/2)"
    assert compare.difference([None], [1.0]) == "-"


def test_a_random_mask_with_another_rate_is_no_baseline(compare, study):
    slow = {way.key: way for way in study.ways()}["wagle-0.2-x1"]
    points = {"random-0.2": seeds(1.0), slow.key: seeds(0.5)}
    assert compare.baseline(slow, points) is None
    assert compare.baseline(slow, {**points, "random-0.2-x1": seeds(1.0)}) == "random-0.2-x1"


def test_a_page_of_an_unfinished_study_shows_what_is_done(page, study):
    found = results(random_0=[*seeds(1.0), None], wagle_0=[*seeds(0.5), None], all=[None, None])
    text = page.page(found, study.ways(), [0, 1])
    assert "| **WAGLE** | 0.2 | 20.0 | 1/1 |" in text
    assert "| dense |" not in text


def test_a_figure_draws_no_mean_over_the_seeds_that_got_there_alone(figure, study):
    every = figure.figure_of("world", results(wagle_0=seeds(0.1, 0.2))["world"], study.ways())
    some = figure.figure_of("world", results(wagle_0=seeds(0.1, None))["world"], study.ways())
    assert every.count("<use") > some.count("<use")


def test_the_figure_of_differences_has_a_row_for_each_comparison(figure, study):
    drawn = figure.differences_of("world", results(random_0=seeds(1.0, 1.0), wagle_0=seeds(0.5, 0.7))["world"], study.ways())
    assert "NPO, ratio 0.2" in drawn
    assert "ratio 0.8" not in drawn


def test_points_are_told_apart_by_seed_way_and_settings(study, tmp_path):
    def keys(seeds, levels):
        return {job.key for _, job in study.jobs("world", levels, ["npo"], seeds, tmp_path, None)}

    one = keys([0], [1.0])
    assert len(one) == len(study.ways())
    assert not one & keys([1], [1.0])
    assert not one & keys([0], [2.0])


def test_ways_run_turn_after_turn_and_seed_after_seed(study, tmp_path):
    turn_of = {way.key: way.turn for way in study.ways()}
    order = [(turn_of[way], seed) for (_, way, seed), _ in study.jobs("world", [1.0], ["npo"], [0, 1], tmp_path, None)]
    assert order == sorted(order)


def test_every_way_is_a_selection_that_recipes_know(study):
    from temper.recipe import named_settings

    for way in study.ways():
        assert named_settings("selection", way.selection()).name == way.name


class Falling:
    """Stands for a model whose forget loss is its only weight."""

    def __init__(self, value):
        import torch

        self.weight = torch.nn.Parameter(torch.tensor(value))

    def parameters(self):
        return [self.weight]

    def eval(self):
        return self

    def train(self, mode=True):
        return self

    training = False


@pytest.fixture
def trail(point, monkeypatch):
    """Return a function that puts a model through some forget losses; the loss of neighbours is ten times that."""
    import torch

    monkeypatch.setattr(point, "loss_and_right", lambda model, items, pad_id: {"loss": float(model.weight.detach())})
    monkeypatch.setattr(point, "read_all", lambda model, items, pad_id: {"neighbour.loss": 10 * float(model.weight.detach())})

    def through(values, levels):
        model = Falling(values[0])
        found = point._Trail(model, {"forget": []}, 0, levels)
        over = []
        for step, value in enumerate(values[1:], start=1):
            with torch.no_grad():
                model.weight.fill_(value)
            over.append(found.look(step))
            assert float(model.weight.detach()) == pytest.approx(value)
        return found.found, over

    return through


def test_a_level_is_read_on_the_line_between_two_looks(trail):
    found, over = trail([0.0, 1.0, 3.0], [2.0])
    assert found[0]["neighbour.loss"] == pytest.approx(20.0)
    assert found[0]["step"] == pytest.approx(1.5)
    assert over == [False, True]


def test_several_levels_between_two_looks_are_all_read(trail):
    found, _ = trail([0.0, 4.0], [1.0, 2.0])
    assert [round(read["neighbour.loss"]) for read in found] == [10, 20]


def test_a_level_counts_where_it_is_passed_first(trail):
    found, over = trail([0.0, 2.0, 0.5, 3.0], [1.0, 5.0])
    assert found[0]["step"] == pytest.approx(0.5)
    assert found[1] is None
    assert over == [False, False, False]
