import math

import pytest
import torch

from temper.train.losses.activation import Anchor, Steer, masked_square_sum, token_mask_BL
from temper.train.losses.kl import kl_sum
from temper.train.losses.nll import nll_sum
from temper.train.losses.npo import npo_sum
from temper.train.losses.simnpo import simnpo_sum
from temper.train.losses.term import Batch, Cache, Outputs, followed_BL, labelled_BL, predicting_BL
from tests.train.batches import FORGET, rows


def gradient(function, at):
    at = at.clone().requires_grad_()
    function(at).backward()
    return at.grad


@pytest.mark.parametrize(
    "function",
    [
        lambda x: nll_sum(x, -1),
        lambda x: npo_sum(x.sum(1), torch.tensor([1.0, 2.0], dtype=torch.float64), 0.7),
        lambda x: simnpo_sum(x.mean(1), 2.5, 0.3),
        lambda x: masked_square_sum(x.unsqueeze(-1), torch.ones(1, dtype=torch.float64), torch.tensor([[True, False, True]] * 2)),
        lambda x: kl_sum(torch.log_softmax(torch.ones(2, 3, dtype=torch.float64), -1), torch.log_softmax(x, -1)),
    ],
    ids=["nll", "npo", "simnpo", "activation", "kl"],
)
def test_gradients_agree_with_finite_differences(function):
    x = torch.tensor([[0.3, 1.2, 0.7], [2.0, 0.1, 0.5]], dtype=torch.float64)
    assert torch.autograd.gradcheck(function, (x.requires_grad_(),))


def test_npo_at_the_start_is_two_over_beta_times_ln_two():
    nll = torch.tensor([3.0, 5.0], dtype=torch.float64)
    assert npo_sum(nll, nll, 0.1).item() == pytest.approx(2 * 2 / 0.1 * math.log(2))


def test_npo_at_the_start_has_the_gradient_of_ascent():
    nll = torch.tensor([3.0, 5.0], dtype=torch.float64)
    assert torch.equal(gradient(lambda x: npo_sum(x, nll, 0.1), nll), gradient(lambda x: -x.sum(), nll))


@pytest.mark.parametrize("beta", [1e-1, 1e-2, 1e-4, 1e-6])
def test_npo_tends_to_gradient_ascent_as_beta_falls(beta):
    nll, ref = torch.tensor([4.0, 5.0], dtype=torch.float64), torch.tensor([3.0, 5.5], dtype=torch.float64)
    npo, ascent = gradient(lambda x: npo_sum(x, ref, beta), nll), gradient(lambda x: -x.sum(), nll)
    relative = ((npo - ascent).norm() / ascent.norm()).item()
    assert relative <= 1.2 * beta * (nll - ref).abs().max().item()
    assert beta > 1e-6 or relative < 1e-5


def test_npo_stops_pushing_a_row_that_is_forgotten():
    pushed = gradient(
        lambda x: npo_sum(x, torch.zeros(2, dtype=torch.float64), 1.0), torch.tensor([0.0, 30.0], dtype=torch.float64)
    )
    assert pushed[0].item() == pytest.approx(-1.0) and abs(pushed[1].item()) < 1e-10


def test_simnpo_tends_to_length_normalised_ascent_as_beta_falls():
    mean = torch.tensor([0.4, 2.0], dtype=torch.float64)
    near = gradient(lambda x: simnpo_sum(x, 1e-6, 0.0), mean)
    assert torch.allclose(near, torch.full_like(mean, -1.0), rtol=1e-5)


def test_simnpo_at_its_margin_is_two_over_beta_times_ln_two():
    assert simnpo_sum(torch.tensor([1.5], dtype=torch.float64), 4.5, 1.5).item() == pytest.approx(2 / 4.5 * math.log(2))


def test_kl_is_zero_at_the_teacher_and_positive_elsewhere():
    p = torch.log_softmax(torch.tensor([[0.1, 2.0, -1.0]], dtype=torch.float64), -1)
    q = torch.log_softmax(torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64), -1)
    assert kl_sum(p, p).item() == pytest.approx(0.0, abs=1e-15) and kl_sum(p, q).item() > 0.1


def test_the_activation_loss_is_a_mean_over_tokens_then_a_sum_over_rows():
    hidden = torch.tensor([[[1.0, 1.0], [3.0, 1.0]], [[2.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, True], [True, False]])
    assert masked_square_sum(hidden, torch.zeros(2), mask).item() == pytest.approx((1 + 5) / 2 + 2)


@pytest.fixture
def batch():
    return Batch(**rows(FORGET[:2]))  # 5 and 4 tokens, the first two unscored


def test_masks_mark_what_they_say(batch):
    assert labelled_BL(batch).tolist() == [[False, False, True, True, True], [False, False, True, True, False]]
    assert predicting_BL(batch).tolist() == [[False, True, True, True, False], [False, True, True, False, False]]
    assert followed_BL(batch).tolist() == [[True, True, True, True, False], [True, True, True, False, False]]
    assert token_mask_BL(batch, "answer").sum(1).tolist() == [4, 3]
    assert token_mask_BL(batch, "nonpad").sum(1).tolist() == [5, 4]
    assert token_mask_BL(batch, "all").sum(1).tolist() == [5, 5]


@pytest.mark.parametrize(("mask", "same"), [("labelled", True), ("answer", True), ("nonpad", True), ("all", False)])
def test_padding_changes_the_steering_loss_only_where_padding_is_counted(mask, same):
    torch.manual_seed(0)
    control = torch.randn(4)
    hidden = torch.randn(2, 5, 4)
    wide = torch.cat([hidden, torch.randn(2, 3, 4)], dim=1)
    term = Steer("forget", layer=0, control_D=control, mask=mask)
    narrow_value = term(Outputs(hidden={0: hidden}), Batch(**rows(FORGET[:2])), Cache()).total
    wide_value = term(Outputs(hidden={0: wide}), Batch(**rows(FORGET[:2], pad_to=8)), Cache()).total
    assert torch.isclose(narrow_value, wide_value, atol=1e-6).item() == same


def test_the_anchor_is_zero_where_nothing_moved(batch):
    hidden = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    value = Anchor("retain", layer=1)(Outputs(hidden={1: hidden}), batch, Cache(hidden={1: hidden.clone()}))
    assert value.total.item() == 0.0
