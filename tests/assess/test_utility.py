import numpy as np
import pytest

from temper.assess.measure import PerItem, per_item
from temper.assess.utility import harmonic_mean, utility


def share(role, right, of, metric="answer_accuracy"):
    return per_item(metric, role, "higher", [1.0] * right + [0.0] * (of - right))


def found(measures):
    return {(r.metric, r.model): r for r in utility(measures, seed=0, resamples=200)}


def test_it_is_the_harmonic_mean_of_the_kept_roles():
    # 2 / (1/0.5 + 1/1) = 2/3
    results = found({"unlearned": [share("neighbour", 10, 20), share("reasoning", 20, 20), share("forget", 0, 20)]})
    assert results["utility", "unlearned"].value == pytest.approx(2 / 3)
    assert results["utility", "unlearned"].n == 40


def test_rouge_stands_in_where_rows_have_no_answer():
    results = found(
        {"unlearned": [share("general", 1, 4, "rouge.l_recall"), share("retain", 1, 2), share("retain", 0, 2, "rouge.l_recall")]}
    )
    assert results["utility", "unlearned"].value == pytest.approx(2 / (4 + 2))


def test_a_part_of_zero_makes_it_zero_and_is_named():
    result = found({"unlearned": [share("neighbour", 9, 9), share("reasoning", 0, 9)]})["utility", "unlearned"]
    assert (result.value, result.status) == (0.0, "ok")
    assert result.reason == "0 because of answer_accuracy of reasoning"


def test_relative_utility_of_an_unchanged_model_is_exactly_one():
    parts = [share("neighbour", 7, 9), share("general", 3, 9)]
    result = found({"unlearned": parts, "original": parts})["utility.relative", "unlearned"]
    assert (result.value, result.low, result.high) == (1.0, 1.0, 1.0)


def test_relative_utility_without_an_original_is_absent():
    result = found({"unlearned": [share("neighbour", 7, 9)]})["utility.relative", "unlearned"]
    assert (result.value, result.status) == (None, "no_original")


def test_relative_utility_to_a_useless_original_is_absent():
    result = found({"unlearned": [share("retain", 7, 9)], "original": [share("retain", 0, 9)]})["utility.relative", "unlearned"]
    assert (result.value, result.status) == (None, "degenerate")


def test_without_kept_roles_it_is_skipped():
    result = found({"unlearned": [share("forget", 7, 9)]})["utility", "unlearned"]
    assert (result.value, result.status) == (None, "skipped")
    assert "neighbour" in result.reason


def test_a_role_where_nothing_could_be_scored_is_not_passed_over():
    empty = PerItem("answer_accuracy", "reasoning", "higher", np.array([], dtype=np.int64), np.array([]), {"broken": 4})
    result = found({"unlearned": [share("neighbour", 9, 9), empty]})["utility", "unlearned"]
    assert (result.value, result.status) == (None, "failed")
    assert "reasoning" in result.reason


def test_harmonic_mean_works_on_columns():
    assert harmonic_mean(np.array([[1.0, 0.0], [0.5, 1.0]])) == pytest.approx([2 / 3, 0.0])
