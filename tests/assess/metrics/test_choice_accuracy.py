import math

import numpy as np
import pytest

from temper.assess.choices import ChoiceScores, choices_of
from temper.assess.measure import NOT_FINITE, Answers
from temper.assess.metrics.choice_accuracy import ChoiceAccuracy, share_of_right
from tests.assess.builders import by_name, item, record

TEXTS = [" Rome", " New Amsterdam"]


def measured(*sums, rows=None, role="forget"):
    items = rows or [item(str(number), choices=TEXTS, answer=1) for number in range(len(sums))]
    scores = []
    for one, values in zip(items, sums, strict=True):
        found = choices_of(one)
        usable = values is not None and not isinstance(found, str)
        sizes = np.array([len(text.strip()) for text in found.texts]) if usable else None
        scores.append(ChoiceScores(np.array(values), sizes, found.right) if usable else None)
    answers = Answers(items, [record([-1.0], name=one.id) for one in items], [None] * len(items), scores)
    return by_name(ChoiceAccuracy().compute({role: answers}))


def test_the_largest_sum_decides_and_characters_make_long_choices_fair():
    # sums -4 and -6 over 4 and 13 characters: -1.00 against -0.46
    found = measured([-4.0, -6.0], [-6.0, -4.0])
    assert found["choice_accuracy", "forget"].values.tolist() == [0, 1]
    assert found["choice_accuracy.norm", "forget"].values.tolist() == [1, 1]


def test_a_tie_counts_by_how_many_share_it():
    assert share_of_right(np.array([-1.0, -1.0, -1.0, -2.0]), 0) == pytest.approx(1 / 3)
    assert share_of_right(np.array([-1.0, -1.0, -3.0]), 2) == 0


def test_chance_is_stated_beside_the_result():
    result = measured([-4.0, -6.0])["choice_accuracy", "forget"].result("unlearned", seed=0, resamples=100)
    assert (result.reason, result.better, result.status) == ("chance is 0.5", "lower", "ok")
    assert measured([-1.0, -2.0], role="neighbour")["choice_accuracy", "neighbour"].better == "higher"


@pytest.mark.parametrize("broken", [math.nan, -math.inf])
def test_scores_that_are_not_finite_fail_and_are_never_wrong(broken):
    found = measured([-1.0, broken])["choice_accuracy", "forget"]
    result = found.result("unlearned", seed=0, resamples=100)
    assert (result.value, result.status, found.dropped) == (None, "failed", {NOT_FINITE: 1})


def test_rows_that_cannot_be_scored_are_counted_with_the_reason():
    rows = [
        item("a", choices=TEXTS, answer=0),
        item("b", choices=[" R"], answer=0),
        item("c"),
        item("d", choices=TEXTS, answer=0),
    ]
    found = measured([-1.0, -2.0], None, None, None, rows=rows)["choice_accuracy", "forget"]
    assert found.places.tolist() == [0] and sum(found.dropped.values()) == 3 and len(found.dropped) == 3


def test_a_role_without_choices_has_no_result():
    assert measured(None, None, rows=[item("a"), item("b")]) == {}
    assert measured(None, rows=[item("a", response=" so</think> R", perturbed=[" S"])]) == {}
