"""The study of R2MU: what its page says of given numbers, and that its runs are told apart by all that decides them."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def page(monkeypatch):
    """Return the module of the page; its folder holds scripts, not a package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("study_page")


@pytest.fixture
def study(monkeypatch):
    """Return the script as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("r2mu_study")


def result(cpu_s=1.0, gold=(), original=(), **unlearned):
    """Return the result of one run with these numbers; `a__b` stands for a/b, all of the people who are retained."""

    def numbers(given):
        return {"retain": {name: [value, 10, None] for name, value in dict(given).items()}}

    models = {"unlearned": unlearned, "gold": gold, "original": original}
    return {"numbers": {model: numbers(given) for model, given in models.items()}, "cpu_s": cpu_s}


def leak(*values):
    return [result(**{"trace_leak.statement/trace": value}) for value in values]


def bar_of(page, results, name):
    found = [bar for bar in page.bars(page.Found(results)) if bar.name.startswith(name)]
    assert len(found) == 1
    return found[0]


def test_a_cell_is_the_mean_over_seeds_and_shows_each_seed(page):
    found = page.Found({"r2mu": leak(0.0, 0.01, 0.05)})
    column = page.Column("leak", "retain", "trace_leak.statement/trace")
    text = page.table([page.Line("R2MU", "r2mu")], [column], found)
    assert text.splitlines() == ["| model | leak, % |", "| --- | --- |", "| R2MU | 2.0 (0.0 / 1.0 / 5.0) |"]


def test_a_number_that_one_seed_lacks_is_a_dash_and_its_reason_is_kept(page):
    lacking = {"numbers": {"unlearned": {"retain": {"leak/trace": [None, 0, "no trace was written"]}}}, "cpu_s": 1.0}
    found = page.Found({"r2mu": [result(**{"leak/trace": 0.5}), lacking]})
    assert found.values(page.Line("R2MU", "r2mu"), page.Column("leak", "retain", "leak/trace")) is None
    assert found.missing == {"no trace was written": ["leak of R2MU"]}


def test_a_decoding_mode_has_the_numbers_of_its_name_and_none_of_direct_answers(page):
    runs = [result(**{"answer_accuracy/trace": 0.9, "answer_accuracy@zero_thinking/trace": 0.1, "answer_accuracy/forget": 0.2})]
    found = page.Found({"rmu": runs})
    line = page.Line("RMU", "rmu", mode="zero_thinking")
    assert found.values(line, page.Column("a", "retain", "answer_accuracy/trace", thinks=True)) == [0.1]
    assert found.values(line, page.Column("b", "retain", "answer_accuracy/forget")) is None


def test_a_decoding_mode_is_asked_only_for_what_is_measured_in_one(page):
    asked = {column.key.partition("/")[0] for columns in page.TABLES.values() for column in columns if column.thinks}
    assert asked == {"answer_accuracy", "answer_accuracy.lenient", "trace_leak.statement"}
    text = page.page([page.Line("RMU", "rmu", mode="zero_thinking")], {"rmu": [result()]}, "S", [])
    assert "what the model says behind the forced thought" in text and "forced thought" not in page.page([], {}, "S", [])


@pytest.mark.parametrize(("values", "met"), [((0.0, 0.02, 0.04), True), ((0.0, 0.02, 0.05), False)])
def test_a_bar_is_held_on_the_mean_over_seeds(page, values, met):
    bar = bar_of(page, {"r2mu": leak(*values)}, "R2MU (A): traces that state the fact")
    assert bar.met is met
    assert page.verdict(bar).startswith("- met: " if met else "- **NOT MET**: ")


def test_the_answers_after_thinking_are_held_to_gold_and_three_points(page):
    gold = [result(gold={"answer_accuracy/trace": value}) for value in (0.06, 0.10)]
    for value, met in ((0.10, True), (0.12, False)):
        runs = {"rmu": gold, "r2mu": [result(**{"answer_accuracy/trace": value})] * 2}
        assert bar_of(page, runs, "R2MU (A): forget answers after thinking, strict").met is met


def test_what_is_kept_is_held_to_a_share_of_the_original(page):
    before = [result(original={"answer_accuracy/general": 0.5})]
    for value, met in ((0.41, True), (0.39, False)):
        runs = {"rmu": before, "r2mu": [result(**{"answer_accuracy/general": value})]}
        assert bar_of(page, runs, "R2MU (A): arithmetic stories").met is met


def test_neighbours_stand_beside_the_bars_and_are_read_from_their_own_evaluation(page):
    original = {"numbers": {"original": {"neighbour": {"answer_accuracy/retain": [1.0, 10, None]}}}, "cpu_s": 1.0}
    kept = {"numbers": {"unlearned": {"neighbour": {"answer_accuracy/retain": [0.8, 10, None]}}}, "cpu_s": 1.0}
    direct = page.beside(page.Found({"rmu": [original], "r2mu": [kept]}))[0]
    assert (direct.value, direct.met) == (0.8, False)
    assert direct.name not in {bar.name for bar in page.bars(page.Found({}))}


def test_a_bar_on_a_number_that_was_not_measured_is_not_met(page):
    bars = page.bars(page.Found({"rmu": [result()], "r2mu": [result()], "v0": [result()]}))
    assert not any(bar.met for bar in bars)
    assert all("not measured" in page.verdict(bar) for bar in bars)


def test_the_page_states_why_a_number_is_not_there(page):
    text = page.page([page.Line("R2MU", "r2mu")], {"r2mu": leak(0.0)}, "One setting.", ["- R2MU: a recipe"])
    assert "no evaluation has a number answer_accuracy/forget" in text.partition("## Why a number is not there")[2]


def test_every_variant_has_a_recipe_and_a_line_of_its_own(study, tmp_path):
    planned = study.jobs(list(study.VARIANTS), [0, 1, 2], 0, tmp_path)
    keys = [job.key for group in planned.values() for job in group]
    assert len(keys) == len(set(keys)) == 3 * len(study.VARIANTS)
    titles = [line.title for line in study.lines(list(study.VARIANTS))]
    assert len(titles) == len(set(titles)) == len(study.VARIANTS) + 3  # original, gold and one decoding mode


def test_a_run_of_another_world_is_another_run(study, tmp_path):
    first, second = (study.jobs(["r2mu"], [0], world, tmp_path)["r2mu"][0] for world in (0, 1))
    assert first.key.rpartition("-")[2] != second.key.rpartition("-")[2]


def test_another_reading_of_the_numbers_judges_the_trained_model_again(study, tmp_path, monkeypatch):
    (first,) = study.jobs(["r2mu"], [0], 0, tmp_path)["r2mu"]
    monkeypatch.setattr(study, "_READING", 99)
    (second,) = study.jobs(["r2mu"], [0], 0, tmp_path)["r2mu"]
    assert first.key != second.key and first.arguments == second.arguments


def test_the_settings_of_a_variant_state_its_masks(study):
    assert "mask answer, trace_mask answer" in study.said(study.VARIANTS["r2mu"])
    assert "mask final" in study.said(study.VARIANTS["rmu_b"])
    assert "mask" not in study.said(study.VARIANTS["npo"])
