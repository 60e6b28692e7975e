"""The formulas: what each score is, and what follows from it."""

import itertools

import pytest
import torch

from temper.errors import ModelError
from temper.models.ranking import choose
from temper.unlearn.attribution.gradient import Gradient
from temper.unlearn.attribution.gradients import mean_gradients
from temper.unlearn.attribution.magnitude import Magnitude
from temper.unlearn.attribution.scores import Scores
from temper.unlearn.attribution.snip import Snip
from temper.unlearn.attribution.uniform import Uniform
from temper.unlearn.attribution.wagle import Wagle
from temper.unlearn.attribution.wagle_product import WagleProduct
from temper.unlearn.attribution.wanda import Wanda
from tests.unlearn.attribution.test_gradients import plain, rows

HALF = {"ratio": 0.5}


@pytest.fixture
def made(make_llama, tmp_path):
    """Return a model with gradients of forget and of retain rows."""
    model = make_llama(layers=2)
    names = [name for name, _ in model.named_parameters()]
    gradients = [mean_gradients(model, rows(6, seed), names, tmp_path / f"{seed}.safetensors", pad_id=0) for seed in (1, 2)]
    return dict(model.named_parameters()), *gradients


def scores(selection, made, **changes):
    theta, forget, retain = made
    return Scores(selection, theta, **{"forget": forget, "retain": retain, "rows": 6, **changes})


def masks(selection, made, ratio=0.5, **changes):
    found = choose(scores(selection, made, **changes), [ratio])[ratio]
    return {name: found[name] for name in found}


def iou(one, other):
    both = sum(int((one[name] & other[name]).sum()) for name in one)
    return both / sum(int((one[name] | other[name]).sum()) for name in one)


def test_scores_are_the_formula_in_float64_from_autograd(make_llama):
    model = make_llama(layers=2).double()
    theta = dict(model.named_parameters())
    forget, retain = plain(model, rows(4, 1)), plain(model, rows(4, 2))
    found = scores(Wagle(ratio=0.5, gamma=0.3), (theta, forget, retain))
    for name, value in theta.items():
        expected = (value.detach() - retain[name] / 0.3) * forget[name]
        assert found[name].dtype == torch.float64
        assert torch.allclose(found[name], expected, rtol=1e-12, atol=0)


def test_every_other_formula_is_what_its_file_says(made):
    theta, forget, retain = made
    name = "model.layers.1.mlp.up_proj.weight"
    value = theta[name].detach()
    assert torch.equal(scores(WagleProduct(**HALF), made)[name], retain[name] * forget[name])
    assert torch.equal(scores(Snip(**HALF), made)[name], value * forget[name])
    assert torch.equal(scores(Gradient(**HALF), made)[name], forget[name])
    assert torch.equal(scores(Magnitude(**HALF), made)[name], value)
    norm = torch.rand(1, value.shape[1])
    assert torch.equal(scores(Wanda(**HALF), made, inputs={name: norm})[name], value.abs() * norm)


def test_random_scores_depend_on_seed_and_name_alone_and_are_never_zero(made):
    first, again, other = (scores(Uniform(**HALF), made, seed=seed) for seed in (1, 1, 2))
    for name in first:
        assert torch.equal(first[name], again[name]) and not torch.equal(first[name], other[name])
        assert bool((first[name] > 0).all() and (first[name] <= 1).all())


def test_the_sign_of_the_forget_loss_changes_nothing_and_that_of_the_retain_loss_does(made):
    theta, forget, retain = made
    selection = Wagle(ratio=0.5, gamma=0.05)
    plus = masks(selection, made)
    minus = masks(selection, (theta, {name: -g for name, g in forget.items()}, retain))
    other = masks(selection, (theta, forget, {name: -g for name, g in retain.items()}))
    assert all(torch.equal(plus[name], minus[name]) for name in plus)
    assert iou(plus, other) < 0.99


def test_the_limits_of_gamma_are_the_product_and_snip(made):
    product, snip = masks(WagleProduct(**HALF), made), masks(Snip(**HALF), made)
    assert iou(masks(Wagle(ratio=0.5, gamma=1e-9), made), product) > 0.999
    assert iou(masks(Wagle(ratio=0.5, gamma=1e9), made), snip) > 0.999


@pytest.mark.parametrize("ratio", [0.1, 0.4, 0.8])
def test_from_small_to_large_gamma_masks_go_from_the_product_to_snip_step_by_step(made, ratio):
    product, snip = masks(WagleProduct(**HALF), made, ratio), masks(Snip(**HALF), made, ratio)
    found = [masks(Wagle(ratio=0.5, gamma=gamma), made, ratio) for gamma in (1e-6, 1e-3, 1e-2, 1e-1, 1, 100)]
    to_product, to_snip = [iou(each, product) for each in found], [iou(each, snip) for each in found]
    assert all(one >= other - 0.01 for one, other in itertools.pairwise(to_product))
    assert all(one <= other + 0.01 for one, other in itertools.pairwise(to_snip))
    assert to_product[0] > 0.99 > to_product[-1] and to_snip[-1] > 0.99 > to_snip[0]


def test_the_balance_share_falls_as_gamma_grows_and_only_wagle_has_one(made):
    shares = [scores(Wagle(ratio=0.5, gamma=gamma), made).balance_share() for gamma in (1e-6, 1e-2, 1, 100)]
    assert shares == sorted(shares, reverse=True) and shares[0] > 0.8 and shares[-1] < 0.01
    theta, _, retain = made
    by_hand = sum(int((retain[n] / 1e-2).abs().gt(theta[n].abs()).sum()) for n in theta) / sum(p.numel() for p in theta.values())
    assert shares[1] == pytest.approx(by_hand)
    assert scores(Snip(**HALF), made).balance_share() is None


def test_gamma_is_absolute_or_by_the_sums_of_the_published_code_or_relative(made):
    theta, _, retain = made
    absolute = scores(Wagle(ratio=0.5, gamma=0.6), made)
    compat = scores(Wagle(ratio=0.5, gamma=0.6, gamma_mode="compat", average="rows"), made)
    relative = scores(Wagle(ratio=0.5, gamma=2.0, gamma_mode="relative"), made)
    assert absolute.facts["gamma"]["absolute"] == 0.6
    assert compat.facts["gamma"] == {"mode": "compat", "value": 0.6, "absolute": pytest.approx(0.1)}
    median = [float(torch.cat([t.detach().abs().flatten() for t in parts.values()]).median()) for parts in (retain, theta)]
    assert relative.facts["gamma"]["absolute"] == pytest.approx(2 * median[0] / median[1])


def test_a_compat_score_is_that_of_summed_gradients_but_for_a_factor(made):
    theta, forget, retain = made
    sums = [{name: 6 * g for name, g in part.items()} for part in (forget, retain)]
    name = "model.layers.0.mlp.down_proj.weight"
    ours = scores(Wagle(ratio=0.5, gamma=0.6, gamma_mode="compat", average="rows"), made)[name]
    theirs = theta[name].detach() * sums[0][name] - sums[1][name] * sums[0][name] / 0.6
    assert torch.allclose(6 * ours, theirs, rtol=1e-4, atol=1e-9)


def test_sums_of_the_published_code_need_rows_that_count_alike():
    with pytest.raises(ValueError, match="compat stands for sums over rows, each by its own mean; set average: rows"):
        Wagle(ratio=0.5, gamma_mode="compat")


def test_relative_gamma_without_a_median_says_what_to_do(made):
    theta, forget, retain = made
    flat = {name: torch.zeros_like(g) for name, g in retain.items()}
    with pytest.raises(ModelError, match=r"relative needs medians above 0.*set gamma_mode=absolute"):
        scores(Wagle(ratio=0.5, gamma_mode="relative"), (theta, forget, flat))


def test_the_formula_is_the_derivative_of_the_forget_loss_under_the_anchored_response():
    draw = torch.Generator().manual_seed(0)
    theta, forget, retain = (torch.randn(40, generator=draw, dtype=torch.float64) for _ in range(3))
    gamma, step = 0.7, 1e-6

    def response(epsilon):
        return theta - (epsilon * retain - retain) / gamma

    def phi(epsilon):
        # a linear forget loss at the rescaled weights, whose other weights re-settle by the response
        return float((forget * epsilon * response(epsilon)).sum())

    found = Scores(Wagle(ratio=0.5, gamma=gamma), {"w": theta}, forget={"w": forget}, retain={"w": retain}, rows=1)["w"]
    for place in range(40):
        unit = torch.zeros(40, dtype=torch.float64)
        unit[place] = step
        slope = (phi(1 + unit) - phi(1 - unit)) / (2 * step)
        assert slope == pytest.approx(float(found[place]), rel=1e-8, abs=1e-8)
