import pytest
import torch

from temper.train.losses.nll import NLL, nll_sum
from temper.train.losses.saturation import WGA, SatImp, saturation_sum
from tests.train.losses.passes import batch_of, gradient_at, gradient_of, mean_of, normal, padding_changes

BETAS = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (5.0, 1.0), (0.5, 0.5)]


def same_loss_and_gradient(first, second, model, frozen, rtol=1e-12):
    values = [mean_of(term, model, frozen, batch_of()) for term in (first, second)]
    torch.testing.assert_close(*values, rtol=rtol, atol=0)
    slopes = [gradient_of(value, model) for value in values]
    return ((slopes[0] - slopes[1]).norm() / slopes[1].norm()).item() < rtol


def test_wga_with_beta_zero_is_gradient_ascent(trained, frozen):
    assert same_loss_and_gradient(WGA("forget", beta=0.0), NLL("forget", sign=-1), trained, frozen)


def test_satimp_with_both_zero_is_gradient_ascent(trained, frozen):
    zero = SatImp("forget", beta_saturation=0.0, beta_importance=0.0)
    assert same_loss_and_gradient(zero, NLL("forget", sign=-1), trained, frozen)


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_satimp_without_importance_is_wga(trained, frozen, beta):
    satimp = SatImp("forget", beta_saturation=beta, beta_importance=0.0)
    assert same_loss_and_gradient(satimp, WGA("forget", beta=beta), trained, frozen)


@pytest.mark.parametrize("betas", BETAS)
def test_the_gradient_agrees_with_finite_differences_of_the_loss_with_its_weights_held(betas):
    nll, size = normal(2, 3).abs() + 0.05, 1e-6
    weights = (-nll).exp() ** betas[0] * (1 - (-nll).exp()) ** betas[1]

    def held(n):
        return -(weights * n).sum()

    steps = size * torch.eye(6, dtype=torch.float64).view(6, 2, 3)
    numeric = torch.stack([(held(nll + step) - held(nll - step)) / (2 * size) for step in steps]).view(2, 3)
    torch.testing.assert_close(gradient_at(lambda n: saturation_sum(n, *betas), nll), numeric, rtol=0, atol=1e-8)


def test_a_forgotten_token_is_left_alone_by_wga_and_not_by_ascent():
    nll = torch.tensor([[60.0]], dtype=torch.float64)
    assert abs(gradient_at(lambda n: saturation_sum(n, 1.0, 0.0), nll).item()) < 1e-20
    assert gradient_at(lambda n: nll_sum(n, -1), nll).item() == -1.0


def test_a_certain_token_is_left_alone_by_satimp_and_not_by_wga():
    nll = torch.tensor([[1e-12]], dtype=torch.float64)
    assert abs(gradient_at(lambda n: saturation_sum(n, 5.0, 1.0), nll).item()) == pytest.approx(1e-12)
    assert gradient_at(lambda n: saturation_sum(n, 1.0, 0.0), nll).item() == pytest.approx(-1.0)


@pytest.mark.parametrize("value", [0.0, -1e-7], ids=["certain", "certain but for rounding"])
@pytest.mark.parametrize("betas", BETAS)
def test_a_certain_token_gives_finite_numbers(betas, value):
    nll = torch.tensor([[value, 3.0]])
    assert saturation_sum(nll, *betas).isfinite() and gradient_at(lambda n: saturation_sum(n, *betas), nll).isfinite().all()


@pytest.mark.parametrize("term", [WGA("forget"), SatImp("forget")], ids=["wga", "satimp"])
def test_padding_changes_nothing(trained, frozen, term):
    assert padding_changes(term, trained, frozen) < 1e-6
