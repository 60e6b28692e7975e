import math

import pytest
import torch

from temper.train.smoothers import GP
from tests.train.smoothers.problems import Cubic, Forgetting, adds, nothing, relative_gap


def test_the_penalty_gradient_is_the_curvature_along_the_gradient():
    # H g / ‖g‖ at (1, 2) is (6·7 + 4·4, 4·7 + 2·4) / √65 = (58, 36) / √65; central differences are exact on a cubic
    cubic = Cubic()
    GP(coefficient=2.0).begin(cubic.parameters).step(cubic.forget, nothing, (0, 0))
    root = math.sqrt(65)
    assert cubic.gradient.tolist() == pytest.approx([7 + 2 * 58 / root, 4 + 2 * 36 / root], rel=1e-10)


def exact_penalty_gradient(loss, parameters):
    """Return ‖∇F‖, ∇F and ∇‖∇F‖ by double backward."""
    first = torch.autograd.grad(loss, parameters, create_graph=True)
    norm = sum(g.square().sum() for g in first).sqrt()
    return norm.item(), [g.detach() for g in first], torch.autograd.grad(norm, parameters)


def test_the_penalty_gradient_of_attention_is_that_of_exact_double_backward():
    generator = torch.Generator().manual_seed(0)
    queries, keys, values = (torch.nn.Parameter(torch.randn(8, 8, dtype=torch.float64, generator=generator)) for _ in range(3))
    parameters = [queries, keys, values]
    rows = torch.randn(2, 6, 8, dtype=torch.float64, generator=generator)

    def loss():
        weights = torch.softmax((rows @ queries) @ (rows @ keys).mT / 8, dim=-1)
        return (weights @ (rows @ values)).logsumexp(dim=-1).mean()

    _, first, exact = exact_penalty_gradient(loss(), parameters)
    GP(coefficient=1.0, radius=1e-4).begin(parameters).step(adds(loss), nothing, (0, 0))
    penalty = [p.grad - g for p, g in zip(parameters, first, strict=True)]
    assert relative_gap(penalty, exact) < 1e-6


def test_the_penalty_gradient_of_a_language_model_is_that_of_exact_double_backward(make_llama):
    # 1e-4 and not less: transformers computes norms and softmax of a float64 Llama in float32
    model = make_llama(std=0.02).double()
    model.set_attn_implementation("eager")
    task = Forgetting(model)
    norm, first, exact = exact_penalty_gradient(task.forget_loss(), task.parameters)
    report = GP(coefficient=1.0, radius=1e-3).begin(task.parameters).step(task.forget, nothing, (0, 0))
    penalty = [p.grad - g for p, g in zip(task.parameters, first, strict=True)]
    assert relative_gap(penalty, exact) < 1e-4
    assert report.statistics["penalty"] == pytest.approx(norm, rel=1e-12)


def test_the_coefficient_scales_the_penalty(make_llama):
    task = Forgetting(make_llama().double())
    results = []
    for coefficient in (0.0, 1.0, 3.0):
        GP(coefficient=coefficient).begin(task.parameters).step(task.forget, nothing, (0, 0))
        results.append(task.gradients())
    plain, once, thrice = results
    tripled = [g + 3 * (h - g) for g, h in zip(plain, once, strict=True)]
    assert relative_gap(thrice, tripled) < 1e-10


def test_descent_on_the_penalty_alone_lowers_the_norm_of_the_gradient():
    cubic = Cubic()
    norms = []
    for _ in range(5):
        report = GP(coefficient=1e6).begin(cubic.parameters).step(cubic.forget, nothing, (0, 0))
        norms.append(report.statistics["forget_gradient_norm"])
        with torch.no_grad():
            for parameter in cubic.parameters:
                parameter.sub_(parameter.grad, alpha=1e-8)
    assert norms == sorted(norms, reverse=True)


def test_the_report_gives_the_value_of_the_whole_loss():
    cubic = Cubic()
    report = GP(coefficient=2.0).begin(cubic.parameters).step(cubic.forget, cubic.retain, (0, 0))
    assert report.loss == pytest.approx(5.0 + 2.0 * math.sqrt(65) + 5.0)
