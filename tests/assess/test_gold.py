import pytest

from temper.assess.evidence import Result
from temper.assess.gold import gap, gaps


def result(value, model="unlearned", half=0.0, metric="probability", **fields):
    ends = {} if value is None else {"low": value - half, "high": value + half}
    return Result(metric=metric, role="forget", model=model, value=value, n=50, better="lower", **ends, **fields)


@pytest.mark.parametrize(("value", "closed"), [(0.9, 0.0), (0.5, 0.5), (0.1, 1.0), (0.0, 1.125), (0.98, -0.1)])
def test_gap_closed_on_the_way_from_original_to_gold(value, closed):
    found = gap(result(value), result(0.9, "original"), result(0.1, "gold"))
    assert (found.gap_closed, found.status) == (pytest.approx(closed), "ok")
    assert found.absolute_gap == pytest.approx(abs(value - 0.1))


def test_without_gold_there_is_no_gap():
    found = gap(result(0.5), result(0.9, "original"), None)
    assert (found.gap_closed, found.absolute_gap, found.status) == (None, None, "no_gold")


def test_without_an_original_only_the_absolute_gap_is_known():
    found = gap(result(0.5), None, result(0.1, "gold"))
    assert (found.gap_closed, found.absolute_gap, found.status) == (None, pytest.approx(0.4), "no_original")


def test_a_difference_below_a_hundredth_is_no_contrast():
    found = gap(result(0.5), result(0.109, "original"), result(0.1, "gold"))
    assert (found.gap_closed, found.status) == (None, "no_contrast")


def test_a_difference_within_half_an_interval_is_no_contrast():
    assert gap(result(0.5), result(0.15, "original", half=0.06), result(0.1, "gold")).status == "no_contrast"
    assert gap(result(0.5), result(0.15, "original", half=0.04), result(0.1, "gold")).status == "ok"


def test_a_number_that_failed_has_no_gap():
    failed = result(None, status="failed", reason="no finite numbers")
    found = gap(failed, result(0.9, "original"), result(0.1, "gold"))
    assert (found.gap_closed, found.absolute_gap, found.status, found.reason) == (None, None, "failed", "no finite numbers")


def test_gold_without_a_value_is_said():
    assert gap(result(0.5), result(0.9, "original"), result(None, "gold", status="failed", reason="broken")).status == "no_gold"


def test_gaps_are_formed_on_what_was_to_be_forgotten_and_nowhere_else():
    forget = [result(0.5), result(0.9, "original"), result(0.1, "gold")]
    kept = [found.model_copy(update={"role": "neighbour"}) for found in forget]
    assert [(found.metric, found.role) for found in gaps([*forget, *kept])] == [("probability", "forget")]


def test_a_number_that_is_not_usable_on_one_side_has_no_gap():
    broken = {"status": "failed", "reason": "no valid verdict"}
    assert gap(result(0.0, **broken), result(0.9, "original"), result(0.1, "gold")).status == "failed"
    assert gap(result(0.5), result(0.9, "original", **broken), result(0.1, "gold")).gap_closed is None
    assert gap(result(0.5), result(0.9, "original"), result(0.1, "gold", **broken)).absolute_gap is None


@pytest.mark.parametrize("broken", ["unlearned", "original", "gold"])
def test_what_a_judge_could_not_read_of_one_model_is_not_compared(broken):
    values = {"unlearned": 0.1, "original": 0.9, "gold": 0.2}
    made = [result(value, model, metric="trace_category.unsafe") for model, value in values.items()]
    few = [result(0.05, model, metric="trace_category.invalid") for model in values]
    assert gaps([*made, *few])[0].gap_closed == pytest.approx(8 / 7)
    many = [one.model_copy(update={"value": 0.06}) if one.model == broken else one for one in few]
    (found, *_) = gaps([*made, *many])
    assert (found.gap_closed, found.absolute_gap, found.status) == (None, None, "failed")
    assert "6%" in found.reason and broken in found.reason
