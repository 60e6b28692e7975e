import math

import pytest
import torch

from temper.train.losses.dpo import DPO, dpo_sum
from temper.train.losses.npo import npo_sum
from tests.train.batches import FORGET
from tests.train.losses.passes import ANSWERS, batch_of, gradient_of, mean_of, normal, padding_changes, run


def test_the_gradient_agrees_with_finite_differences():
    ref, ref_alternative = normal(3, seed=2).abs(), normal(3, seed=3).abs()
    inputs = (normal(3).abs().requires_grad_(), normal(3, seed=1).abs().requires_grad_())
    assert torch.autograd.gradcheck(lambda row, alternative: dpo_sum(row, ref, alternative, ref_alternative, 0.7), inputs)


def test_the_loss_at_the_start_is_two_over_beta_times_ln_two(model, frozen):
    value = mean_of(DPO("forget", beta=0.1), model, frozen, batch_of(alternatives=ANSWERS)).item()
    assert value == pytest.approx(2 / 0.1 * math.log(2), rel=1e-12)


def test_equal_answers_give_two_over_beta_times_ln_two(trained, frozen):
    value = mean_of(DPO("forget", beta=0.1), trained, frozen, batch_of(alternatives=FORGET)).item()
    assert value == pytest.approx(2 / 0.1 * math.log(2), rel=1e-12)


def test_equal_answers_give_no_gradient(trained, frozen):
    loss = mean_of(DPO("forget", beta=0.1), trained, frozen, batch_of(alternatives=FORGET))
    assert gradient_of(loss, trained).abs().max().item() < 1e-12


def test_small_beta_leaves_ascent_on_the_row_and_descent_on_the_alternative(trained, frozen):
    batch = batch_of(alternatives=ANSWERS)
    near = gradient_of(mean_of(DPO("forget", beta=1e-6), trained, frozen, batch), trained)
    out = run(trained, batch)
    limit = gradient_of((out.alternative.token_nll.sum(dim=1) - out.token_nll.sum(dim=1)).mean(), trained)
    assert ((near - limit).norm() / limit.norm()).item() < 1e-5


def test_an_alternative_that_has_not_moved_leaves_npo():
    row, ref, alternative = normal(3).abs(), normal(3, seed=1).abs(), normal(3, seed=2).abs()
    torch.testing.assert_close(dpo_sum(row, ref, alternative, alternative, 0.3), npo_sum(row, ref, 0.3))


def test_two_rows_give_the_mean_of_each(trained, frozen):
    term = DPO("forget", beta=0.5)
    singles = [mean_of(term, trained, frozen, batch_of([FORGET[n]], [ANSWERS[n]])) for n in range(2)]
    both = mean_of(term, trained, frozen, batch_of(FORGET[:2], ANSWERS[:2]))
    torch.testing.assert_close(both, sum(singles) / 2, rtol=1e-6, atol=0)


def test_padding_changes_nothing(trained, frozen):
    assert padding_changes(DPO("forget"), trained, frozen, alternatives=ANSWERS) < 1e-6


def test_it_asks_for_the_alternatives_and_the_rows_from_before():
    assert DPO("forget").needs == {"token_nll", "ref_row_nll", "alt"}
