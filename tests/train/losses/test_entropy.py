import math

import pytest
import torch
from torch.nn import functional as F

from temper.train.losses.entropy import UniformKL, uniform_kl_sum
from temper.train.losses.term import Cache, Outputs
from tests.train.losses.passes import batch_of, gradient_at, mean_of, normal, padding_changes, random_log_probs


def test_the_gradient_agrees_with_finite_differences():
    assert torch.autograd.gradcheck(lambda x: uniform_kl_sum(torch.log_softmax(x, -1)), (normal(2, 5).requires_grad_(),))


def test_the_loss_is_zero_at_uniform():
    assert uniform_kl_sum(torch.log_softmax(torch.full((3, 7), 4.0, dtype=torch.float64), -1)).item() == pytest.approx(
        0.0, abs=1e-14
    )


def test_the_gradient_is_zero_at_uniform():
    slope = gradient_at(lambda x: uniform_kl_sum(torch.log_softmax(x, -1)), torch.zeros(3, 7, dtype=torch.float64))
    assert slope.abs().max().item() < 1e-15


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_is_positive_elsewhere(seed):
    assert uniform_kl_sum(random_log_probs(1, 7, seed=seed)).item() > 0


def test_the_loss_agrees_with_the_library():
    log_probs = random_log_probs(4, 7)
    library = F.kl_div(log_probs, torch.full_like(log_probs, 1 / 7), reduction="sum")
    torch.testing.assert_close(uniform_kl_sum(log_probs), library, rtol=1e-12, atol=0)


def test_the_log_gives_the_entropy():
    batch = batch_of()
    uniform = torch.full((10, 8), -math.log(8))
    value = UniformKL("forget")(Outputs(log_probs={"labelled": uniform}), batch, Cache())
    assert value.statistics["entropy"].item() == pytest.approx(10 * math.log(8))


def test_padding_changes_nothing(trained, frozen):
    assert padding_changes(UniformKL("forget"), trained, frozen) < 1e-6


def test_a_model_that_has_learned_nothing_is_near_zero(make_llama):
    blank = make_llama(std=1e-4).double()
    assert mean_of(UniformKL("forget"), blank, blank, batch_of()).item() < 1e-4
