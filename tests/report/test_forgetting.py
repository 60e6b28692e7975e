"""Where a run stands between original and gold."""

import pytest

from temper.report.columns import columns
from temper.report.forgetting import measure, position
from tests.report.evidences import evidence, with_result, without


def test_the_original_stands_at_0_and_gold_at_1():
    models = columns([evidence("NPO")])
    assert position(models.original, models).forgetting == 0
    assert position(models.gold, models).forgetting == 1


def test_forgetting_is_the_share_of_the_way_by_extraction_strength():
    models = columns([evidence("NPO")])
    assert measure(models)[0] == "extraction_strength"
    assert position(models.runs[0], models).forgetting == pytest.approx((0.95 - 0.16) / (0.95 - 0.21))


def test_where_extraction_strength_has_no_contrast_right_answers_take_its_place():
    made = with_result(evidence("NPO"), "extraction_strength", "forget", "gold", value=0.93, low=0.9, high=0.95)
    assert measure(columns([made]))[0] == "answer_accuracy"


@pytest.mark.parametrize("gone", ["gold", "original"])
def test_without_gold_or_original_there_is_no_place_and_a_reason(gone):
    models = columns([without(evidence("NPO"), gone)])
    place = position(models.runs[0], models)
    assert place.forgetting is None and gone in place.why


def test_the_ends_of_the_interval_are_turned_round_with_the_number():
    models = columns([evidence("NPO")])
    place = position(models.runs[0], models)
    assert place.forgetting_span[0] < place.forgetting < place.forgetting_span[1]


def test_runs_of_one_name_are_told_apart():
    assert [c.name for c in columns([evidence("NPO", seed=0), evidence("NPO", seed=1)]).runs] == ["NPO (seed 0)", "NPO (seed 1)"]
    assert [c.name for c in columns([evidence("NPO"), evidence("NPO")]).runs] == ["NPO (seed 0) #1", "NPO (seed 0) #2"]
