import math

import pytest
import torch

from temper.train.losses.nll import NLL
from temper.train.losses.npo import NPO
from temper.train.losses.npo_batch_mean import NPOBatchMean, npo_of_batch
from tests.train.batches import FORGET
from tests.train.losses.passes import batch_of, gradient_of, mean_of, normal, padding_changes


def test_the_gradient_agrees_with_finite_differences():
    assert torch.autograd.gradcheck(lambda x: npo_of_batch(x, torch.tensor(1.3).double(), 0.7), (normal().requires_grad_(),))


def test_the_loss_at_the_start_is_two_over_beta_times_ln_two(model, frozen):
    value = mean_of(NPOBatchMean("forget", beta=0.05), model, frozen, batch_of()).item()
    assert value == pytest.approx(2 / 0.05 * math.log(2), rel=1e-12)


def test_the_gradient_at_the_start_is_that_of_token_mean_ascent(model, frozen):
    batch = batch_of()
    ours = gradient_of(mean_of(NPOBatchMean("forget"), model, frozen, batch), model)
    ascent = gradient_of(mean_of(NLL("forget", sign=-1), model, frozen, batch), model)
    torch.testing.assert_close(ours, ascent, rtol=1e-10, atol=1e-14)


def test_one_row_is_npo_with_beta_over_its_length(trained, frozen):
    batch = batch_of(FORGET[:1])  # three labelled tokens
    ours = mean_of(NPOBatchMean("forget", beta=0.3), trained, frozen, batch)
    torch.testing.assert_close(ours, mean_of(NPO("forget", beta=0.1), trained, frozen, batch) / 3)


def test_what_shares_a_batch_changes_the_value(trained, frozen):
    term = NPOBatchMean("forget", beta=0.5)
    singles = [mean_of(term, trained, frozen, batch_of([row])) for row in FORGET[:2]]
    together = mean_of(term, trained, frozen, batch_of(FORGET[:2]))
    assert abs(together - sum(singles) / 2).item() > 1e-6


def test_padding_changes_nothing(trained, frozen):
    assert padding_changes(NPOBatchMean("forget"), trained, frozen) < 1e-6
