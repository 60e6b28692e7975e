import math

import pytest
import torch

from temper.train.losses.preservation import AnswerPreservation, preservation_sum
from temper.train.losses.term import Cache
from tests.train.batches import FORGET
from tests.train.losses.passes import ANSWERS, batch_of, gradient_at, gradient_of, mean_of, normal, padding_changes, run


def test_the_gradient_agrees_with_finite_differences():
    inputs = (normal(3).abs().requires_grad_(), normal(3, seed=1).abs().requires_grad_())
    assert torch.autograd.gradcheck(lambda row, alternative: preservation_sum(row, alternative, 0.7), inputs)


def test_equal_answers_give_ln_two_over_beta_and_no_gradient(trained, frozen):
    loss = mean_of(AnswerPreservation("retain", beta=0.1), trained, frozen, batch_of(alternatives=FORGET))
    assert loss.item() == pytest.approx(math.log(2) / 0.1, rel=1e-12)
    assert gradient_of(loss, trained).abs().max().item() < 1e-12


def test_it_pulls_the_answer_up_and_the_alternative_down():
    answer = gradient_at(lambda x: preservation_sum(x, torch.ones(1), 0.5), torch.ones(1))
    alternative = gradient_at(lambda x: preservation_sum(torch.ones(1), x, 0.5), torch.ones(1))
    assert answer.item() == 0.5 and alternative.item() == -0.5


def test_an_answer_far_ahead_is_left_alone():
    assert abs(gradient_at(lambda x: preservation_sum(x, torch.full((1,), 90.0), 1.0), torch.ones(1)).item()) < 1e-10


def test_it_needs_no_model_from_before(trained):
    batch = batch_of(alternatives=ANSWERS)
    term = AnswerPreservation("retain")
    assert term.needs == {"token_nll", "alt"}
    assert term(run(trained, batch), batch, Cache()).total.isfinite()


def test_padding_changes_nothing(trained, frozen):
    assert padding_changes(AnswerPreservation("retain"), trained, frozen, alternatives=ANSWERS) < 1e-6
