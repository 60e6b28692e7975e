import math

import pytest
import torch

from temper.train.losses.npo import NPO, npo_sum
from temper.train.losses.term import Cache
from tests.train.batches import FORGET
from tests.train.losses.passes import batch_of, before, gradient_at, gradient_of, mean_of, normal, padding_changes, run


def ascent_on_sums(model, batch):
    """Gradient ascent on the sum over each row, the mean over rows."""
    return -run(model, batch).token_nll.sum(dim=1).mean()


def test_the_gradient_agrees_with_finite_differences():
    ref = normal(3, seed=1).abs()
    assert torch.autograd.gradcheck(lambda x: npo_sum(x, ref, 0.7), (normal(3).abs().requires_grad_(),))


def test_the_loss_at_the_start_is_two_over_beta_times_ln_two(model, frozen):
    assert mean_of(NPO("forget", beta=0.1), model, frozen, batch_of()).item() == pytest.approx(2 / 0.1 * math.log(2), rel=1e-12)


def test_the_gradient_at_the_start_is_that_of_ascent(model, frozen):
    batch = batch_of()
    npo = gradient_of(mean_of(NPO("forget", beta=0.1), model, frozen, batch), model)
    assert torch.equal(npo, gradient_of(ascent_on_sums(model, batch), model))


@pytest.mark.parametrize("beta", [1e-1, 1e-2, 1e-4, 1e-6])
def test_npo_tends_to_gradient_ascent_as_beta_falls(trained, frozen, beta):
    batch = batch_of()
    npo = gradient_of(mean_of(NPO("forget", beta=beta), trained, frozen, batch), trained)
    ascent = gradient_of(ascent_on_sums(trained, batch), trained)
    relative = ((npo - ascent).norm() / ascent.norm()).item()
    lost = (run(trained, batch).token_nll.sum(dim=1) - before(frozen, batch).row_nll).abs().max().item()
    assert lost > 1e-2
    assert 0 < relative <= 1.2 * beta * lost
    assert beta > 1e-6 or relative < 1e-5


def test_the_gradient_is_that_of_ascent_weighted_by_how_much_is_left():
    nll, ref, beta = torch.tensor([4.0, 1.0], dtype=torch.float64), torch.tensor([3.0, 2.5], dtype=torch.float64), 0.7
    weight = 2 * (-nll * beta).exp() / ((-nll * beta).exp() + (-ref * beta).exp())
    torch.testing.assert_close(gradient_at(lambda x: npo_sum(x, ref, beta), nll), -weight, rtol=1e-12, atol=0)


def test_a_row_that_is_forgotten_is_pushed_no_further():
    pushed = gradient_at(
        lambda x: npo_sum(x, torch.zeros(2, dtype=torch.float64), 1.0), torch.tensor([0.0, 30.0], dtype=torch.float64)
    )
    assert pushed[0].item() == pytest.approx(-1.0) and abs(pushed[1].item()) < 1e-10


def test_two_rows_give_the_mean_of_each(trained, frozen):
    term = NPO("forget", beta=0.5)
    singles = [mean_of(term, trained, frozen, batch_of([row])) for row in FORGET[:2]]
    torch.testing.assert_close(mean_of(term, trained, frozen, batch_of(FORGET[:2])), sum(singles) / 2, rtol=1e-6, atol=0)


def test_padding_changes_nothing(trained, frozen):
    assert padding_changes(NPO("forget"), trained, frozen) < 1e-6


def test_the_log_says_how_many_nats_the_rows_have_lost(trained, frozen):
    batch = batch_of()
    out, ref = run(trained, batch), before(frozen, batch)
    value = NPO("forget")(out, batch, Cache(row_nll=ref.row_nll))
    torch.testing.assert_close(value.statistics["nats_lost"], (out.token_nll.sum() - ref.row_nll.sum()).detach())
