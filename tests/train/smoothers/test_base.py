import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from temper.errors import ModelError, RunError
from temper.train.smoothers import (
    CR,
    GP,
    RS,
    SAM,
    WA,
    NoSmoothing,
)
from temper.train.smoothers.moving import SMALLEST_NORM, Replay, add_scaled, norm_of, restoring, squared_norms
from tests.train.smoothers.problems import Cubic, Forgetting, adds, equal, nothing, relative_gap

MOVING = [SAM(), SAM(scope="tensor"), SAM(adaptive=True), RS(), GP(), CR()]
EVERY = [NoSmoothing(), WA(), *MOVING]
OFF = [
    SAM(rho=0.0),
    RS(rho=0.0),
    GP(coefficient=0.0),
    CR(coefficient=0.0),
    NoSmoothing(),
    WA(),
]
named = pytest.mark.parametrize


def ids(smoothers):
    return [smoother.name + "-" + str(number) for number, smoother in enumerate(smoothers)]


@named("smoother", OFF, ids=ids(OFF))
def test_a_smoother_that_is_off_gives_the_plain_gradient_bit_for_bit(smoother, make_llama):
    task = Forgetting(make_llama(), micro_batches=2)
    expected = task.plain()
    smoother.begin(task.parameters).step(task.forget, task.retain, (0, 0))
    assert equal(task.gradients(), expected)


@named("smoother", OFF, ids=ids(OFF))
def test_a_smoother_that_is_off_runs_the_forget_terms_once(smoother):
    cubic = Cubic()
    smoother.begin(cubic.parameters).step(cubic.forget, cubic.retain, (0, 0))
    assert len(cubic.forget_at) == smoother.forget_passes == 1


@named("smoother", MOVING, ids=ids(MOVING))
def test_a_step_runs_the_forget_terms_as_often_as_it_says(smoother):
    cubic = Cubic()
    smoother.begin(cubic.parameters).step(cubic.forget, cubic.retain, (0, 0))
    assert len(cubic.forget_at) == smoother.forget_passes > 1


@named("smoother", EVERY, ids=ids(EVERY))
def test_the_weights_come_back_bit_for_bit(smoother, make_llama):
    task = Forgetting(make_llama())
    before = task.weights()
    smoother.begin(task.parameters).step(task.forget, task.retain, (0, 0))
    assert equal(task.weights(), before)


@named("smoother", EVERY, ids=ids(EVERY))
def test_the_retain_terms_run_once_at_the_weights_themselves(smoother):
    cubic = Cubic()
    smoother.begin(cubic.parameters).step(cubic.forget, cubic.retain, (0, 0))
    assert [point.tolist() for point in cubic.retain_at] == [[1.0, 2.0]]


@named("smoother", EVERY, ids=ids(EVERY))
def test_the_retain_gradient_is_added_to_the_smoothed_forget_gradient(smoother):
    cubic, alone = Cubic(), Cubic()
    smoother.begin(cubic.parameters).step(cubic.forget, cubic.retain, (0, 0))
    smoother.begin(alone.parameters).step(alone.forget, lambda: 0.0, (0, 0))
    assert torch.equal(cubic.gradient, alone.gradient + torch.tensor([5.0, 0.0], dtype=torch.float64))


@named("smoother", EVERY, ids=ids(EVERY))
def test_gradients_of_the_step_before_are_discarded(smoother):
    stale, fresh = Cubic(), Cubic()
    stale.x.grad = torch.full_like(stale.x, 1e6)
    for cubic in (stale, fresh):
        smoother.begin(cubic.parameters).step(cubic.forget, cubic.retain, (0, 0))
    assert torch.equal(stale.gradient, fresh.gradient)


@named("smoother", MOVING, ids=ids(MOVING))
def test_four_micro_batches_give_what_one_batch_gives(smoother, make_llama):
    model = make_llama().double()
    results = []
    for micro_batches in (1, 4):
        task = Forgetting(model, micro_batches)
        smoother.begin(task.parameters).step(task.forget, task.retain, (0, 0))
        results.append(task.gradients())
    assert relative_gap(results[1], results[0]) < 1e-8


@named("smoother", MOVING, ids=ids(MOVING))
def test_a_smoothed_gradient_differs_from_the_plain_one(smoother, make_llama):
    task = Forgetting(make_llama().double())
    plain = task.plain()
    smoother.begin(task.parameters).step(task.forget, task.retain, (0, 0))
    assert relative_gap(task.gradients(), plain) > 1e-5


@named("smoother", MOVING, ids=ids(MOVING))
def test_the_weights_come_back_when_a_pass_fails(smoother):
    cubic = Cubic()
    calls = []

    def fails_when_moved():
        calls.append(1)
        if cubic.point.tolist() != [1.0, 2.0]:
            raise RunError("out of memory")
        return cubic.forget()

    with pytest.raises(RunError, match="out of memory"):
        smoother.begin(cubic.parameters).step(fails_when_moved, cubic.retain, (0, 0))
    assert cubic.point.tolist() == [1.0, 2.0]


FOLLOWING = [smoother for smoother in MOVING if smoother.name != "rs"]


@named("smoother", FOLLOWING, ids=ids(FOLLOWING))
def test_a_vanishing_gradient_is_not_followed(smoother):
    cubic = Cubic(0.0, 1e-13)
    smoother.begin(cubic.parameters).step(cubic.forget, cubic.retain, (0, 0))
    assert cubic.gradient.tolist() == [5.0 + 1e-26, 0.0] and len(cubic.forget_at) == 1


@named("smoother", FOLLOWING, ids=ids(FOLLOWING))
def test_a_gradient_that_is_not_finite_is_refused(smoother):
    cubic = Cubic(float("inf"), 1.0)
    with pytest.raises(RunError, match="not finite"):
        smoother.begin(cubic.parameters).step(cubic.forget, cubic.retain, (0, 0))


@named("smoother", EVERY, ids=ids(EVERY))
def test_a_parameter_that_no_term_reads_keeps_no_gradient(smoother):
    cubic = Cubic()
    idle = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    smoother.begin([idle, *cubic.parameters]).step(cubic.forget, cubic.retain, (0, 0))
    assert idle.grad is None


@named("smoother", EVERY, ids=ids(EVERY))
def test_a_parameter_that_only_the_retain_terms_read_gets_their_gradient(smoother):
    cubic = Cubic()
    other = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    smoother.begin([other, *cubic.parameters]).step(cubic.forget, adds(lambda: (2 * other).sum()), (0, 0))
    assert other.grad.tolist() == [2.0, 2.0, 2.0]


@named("smoother", FOLLOWING, ids=ids(FOLLOWING))
def test_the_passes_of_a_step_see_the_same_dropout(smoother):
    cubic = Cubic()
    seen = []

    def forget():
        seen.append(torch.rand(3).tolist())
        return cubic.forget()

    with torch.random.fork_rng():
        smoother.begin(cubic.parameters).step(forget, cubic.retain, (0, 0))
    assert len(seen) > 1 and all(draw == seen[0] for draw in seen)


def test_replay_goes_on_where_one_pass_would_have_left_off():
    with torch.random.fork_rng():
        replay = Replay([])
        torch.rand(3)
        after = torch.random.get_rng_state()
        replay.rewind()
        torch.rand(3)
        assert torch.equal(torch.random.get_rng_state(), after)


@named("smoother", MOVING, ids=ids(MOVING))
@named("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_refused_by_name(smoother, dtype, make_llama):
    model = make_llama().to(dtype)
    with pytest.raises(ModelError, match=r"model\.embed_tokens\.weight is b?float16.*float32"):
        smoother.check_parameters(model.named_parameters())


@named("smoother", [NoSmoothing(), WA()], ids=["none", "wa"])
def test_half_precision_is_accepted_where_no_weight_is_moved_by_little(smoother, make_llama):
    smoother.check_parameters(make_llama().to(torch.bfloat16).named_parameters())


def test_frozen_parameters_may_be_in_half_precision(make_llama):
    model = make_llama().to(torch.bfloat16).requires_grad_(False)
    model.lm_head.float().requires_grad_(True)
    SAM().check_parameters(model.named_parameters())


@named("smoother", EVERY, ids=ids(EVERY))
def test_the_settings_refuse_unknown_keys(smoother):
    with pytest.raises(ValidationError, match="unknown"):
        type(smoother).model_validate({"unknown": 1})


@named("smoother", EVERY, ids=ids(EVERY))
def test_the_settings_survive_a_round_trip(smoother):
    assert type(smoother).model_validate(smoother.model_dump(mode="json")) == smoother


@named("smoother", MOVING, ids=ids(MOVING))
def test_a_smoother_without_memory_refuses_a_state(smoother):
    smoothing = smoother.begin(Cubic().parameters)
    assert smoothing.state() == {}
    with pytest.raises(RunError, match="another smoother"):
        smoothing.load_state({"count": torch.tensor(1)})


def test_the_plain_step_reports_the_loss_of_both_sides():
    cubic = Cubic()
    report = NoSmoothing().begin(cubic.parameters).step(cubic.forget, cubic.retain, (0, 0))
    assert report.loss == 10.0 and report.statistics == {"forget_loss": 5.0}


def test_restoring_gives_back_values_that_subtraction_would_not():
    weight = torch.nn.Parameter(torch.tensor([0.1, 1e-8, 3.0]))
    before = weight.detach().clone()
    with restoring([weight]), torch.no_grad():
        weight.add_(1e3)
    assert torch.equal(weight.detach(), before)


def test_the_norm_of_all_tensors_counts_a_missing_one_as_zero():
    assert norm_of(squared_norms([torch.tensor([3.0]), None, torch.tensor([[4.0]])])) == 5.0


def test_the_norm_of_nothing_is_below_the_guard():
    assert norm_of(squared_norms([])) < SMALLEST_NORM


def test_adding_to_a_missing_gradient_makes_a_new_one():
    other = torch.tensor([2.0])
    into = [None]
    add_scaled(into, [other], 3.0)
    assert into[0].tolist() == [6.0] and other.tolist() == [2.0]


def test_no_parameters_make_no_step():
    assert SAM().begin([]).step(nothing, nothing, (0, 0)).loss == 0.0


def test_the_settings_load_no_torch():
    code = (
        "import sys, temper.train.smoothers as s\ns.SAM(); s.WA().check(100)\nprint({'torch', 'transformers'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert printed.stdout.strip() == "set()"
