import math

import pytest
import torch

from temper.train.losses.simnpo import SimNPO, simnpo_sum
from temper.train.losses.term import labelled_BL
from tests.train.losses.passes import batch_of, gradient_of, mean_of, normal, padding_changes, run


def test_the_gradient_agrees_with_finite_differences():
    assert torch.autograd.gradcheck(lambda x: simnpo_sum(x, 2.5, 0.3), (normal(3).abs().requires_grad_(),))


def test_simnpo_tends_to_length_normalised_ascent_as_beta_falls(trained, frozen):
    batch = batch_of()
    near = gradient_of(mean_of(SimNPO("forget", beta=1e-6), trained, frozen, batch), trained)
    ascent = gradient_of(-(run(trained, batch).token_nll.sum(dim=1) / labelled_BL(batch).sum(dim=1)).mean(), trained)
    assert ((near - ascent).norm() / ascent.norm()).item() < 1e-5


def test_the_loss_at_its_margin_is_two_over_beta_times_ln_two():
    assert simnpo_sum(torch.tensor([1.5], dtype=torch.float64), 4.5, 1.5).item() == pytest.approx(2 / 4.5 * math.log(2))


def test_padding_changes_nothing(trained, frozen):
    assert padding_changes(SimNPO("forget"), trained, frozen) < 1e-6
