import pytest
import torch

from temper.errors import RecipeError, RunError
from temper.train.smoothers import SAM, WA, NoSmoothing


def run(smoothing, values, first=1):
    """Set the weight to each value in turn, as an optimiser would."""
    for step, value in enumerate(values, start=first):
        with torch.no_grad():
            smoothing.parameters[0].fill_(value)
        smoothing.after_step(step)


def weight(dtype=torch.float32, n=2):
    return torch.nn.Parameter(torch.zeros(n, dtype=dtype))


def test_the_end_is_the_mean_of_the_weights_that_were_taken():
    parameter = weight()
    smoothing = WA(start=4, every=3).begin([parameter])
    run(smoothing, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 10.0, 11.0, 12.0])
    smoothing.finish()
    # steps 4 and 7
    assert parameter.tolist() == [7.0, 7.0]


def test_the_published_run_of_125_steps_averages_six_weights():
    smoothing = WA().begin([weight()])
    run(smoothing, range(125))
    assert smoothing.state()["count"] == 6


def test_the_weights_themselves_are_not_touched_before_the_end():
    parameter = weight()
    smoothing = WA(start=1, every=1).begin([parameter])
    run(smoothing, [1.0, 2.0])
    assert parameter.tolist() == [2.0, 2.0]


def test_a_weight_that_does_not_move_is_the_same_bits_in_the_mean():
    parameter = torch.nn.Parameter(torch.randn(1000, generator=torch.Generator().manual_seed(0)))
    before = parameter.detach().clone()
    smoothing = WA(start=1, every=1).begin([parameter])
    for step in range(1, 8):
        smoothing.after_step(step)
    smoothing.finish()
    assert torch.equal(parameter.detach(), before)


def test_the_mean_of_half_precision_weights_is_kept_in_single_precision():
    parameter = weight(torch.bfloat16)
    smoothing = WA(start=1, every=1).begin([parameter])
    run(smoothing, [256.0] * 300 + [0.0] * 300)
    smoothing.finish()
    assert parameter.tolist() == [128.0, 128.0] and parameter.dtype == torch.bfloat16


def test_a_resumed_run_ends_as_an_uninterrupted_one():
    whole, broken = weight(), weight()
    values = [0.1 * number for number in range(1, 21)]
    smoother = WA(start=3, every=2)
    smoothing = smoother.begin([whole])
    run(smoothing, values)
    smoothing.finish()
    first = smoother.begin([broken])
    run(first, values[:11])
    second = smoother.begin([broken])
    second.load_state(first.state())
    run(second, values[11:], first=12)
    second.finish()
    assert torch.equal(broken.detach(), whole.detach())


def test_a_run_resumed_before_the_first_taking_ends_as_an_uninterrupted_one():
    parameter = weight()
    smoother = WA(start=3, every=1)
    first = smoother.begin([parameter])
    run(first, [1.0])
    second = smoother.begin([parameter])
    second.load_state(first.state())
    run(second, [2.0, 3.0, 5.0], first=2)
    second.finish()
    assert parameter.tolist() == [4.0, 4.0]


def test_the_state_does_not_change_with_the_run_after_it():
    smoothing = WA(start=1, every=1).begin([weight()])
    run(smoothing, [1.0])
    state = smoothing.state()
    run(smoothing, [3.0], first=2)
    assert state["mean.0"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "state",
    [{}, {"count": torch.tensor(1)}, {"count": torch.tensor(1), "mean.0": torch.zeros(3)}, {"mean.0": torch.zeros(2)}],
    ids=["empty", "no mean", "another shape", "no count"],
)
def test_a_state_of_other_parameters_is_refused(state):
    with pytest.raises(RunError, match="does not hold an average of the 1 tensors"):
        WA().begin([weight()]).load_state(state)


def test_a_run_that_is_too_short_is_refused_before_training():
    with pytest.raises(RecipeError, match=r"smoother\.start = 100, but the run has 40 optimiser steps.*1\.\.40"):
        WA().check(40)


def test_a_run_that_just_reaches_the_start_is_accepted():
    WA().check(100)


@pytest.mark.parametrize("smoother", [NoSmoothing(), SAM()], ids=["none", "sam"])
def test_the_others_accept_a_run_of_any_length(smoother):
    smoother.check(1)


def test_the_end_of_a_run_that_took_no_weights_is_an_error():
    with pytest.raises(RunError, match="before step 100"):
        WA().begin([weight()]).finish()
