import math

import pytest
import torch
from pydantic import ValidationError

from temper.train.smoothers import SAM
from temper.train.smoothers.sam import scale_to_perturbation
from tests.train.smoothers.problems import Cubic, Forgetting, equal, nothing


def taken(cubic, smoother):
    """Return how far each forget pass stood from the weights."""
    smoother.begin(cubic.parameters).step(cubic.forget, cubic.retain, (0, 0))
    return [point - cubic.point for point in cubic.forget_at]


def test_the_perturbation_has_norm_rho():
    _, moved = taken(Cubic(), SAM(rho=0.3))
    assert moved.norm().item() == pytest.approx(0.3, abs=1e-14)


def test_the_perturbation_of_a_language_model_has_norm_rho_over_all_tensors(make_llama):
    task = Forgetting(make_llama().double())
    before, points = task.weights(), []

    def forget():
        points.append(task.weights())
        return task.forget()

    SAM(rho=0.01).begin(task.parameters).step(forget, task.retain, (0, 0))
    norm = sum((a - b).square().sum() for a, b in zip(points[1], before, strict=True)).sqrt()
    assert norm.item() == pytest.approx(0.01, rel=1e-10)


def test_the_perturbation_points_along_the_gradient():
    _, moved = taken(Cubic(), SAM(rho=0.3))
    assert torch.allclose(moved, 0.3 * torch.tensor([7.0, 4.0], dtype=torch.float64) / math.sqrt(65), atol=1e-14)


def test_the_gradient_is_that_at_the_perturbed_weights():
    cubic = Cubic()
    SAM(rho=0.3).begin(cubic.parameters).step(cubic.forget, nothing, (0, 0))
    x, y = 1 + 0.3 * 7 / math.sqrt(65), 2 + 0.3 * 4 / math.sqrt(65)
    assert cubic.gradient.tolist() == pytest.approx([3 * x**2 + y**2, 2 * x * y], rel=1e-14)


def test_the_steps_at_rho_zero_train_to_the_weights_of_plain_steps(make_llama):
    ends = []
    for smoother in (None, SAM(rho=0.0)):
        task = Forgetting(make_llama())
        optimizer = torch.optim.AdamW(task.parameters, lr=1e-3, weight_decay=0.1)
        for step in range(3):
            if smoother is None:
                task.plain()
            else:
                smoother.begin(task.parameters).step(task.forget, task.retain, (0, step))
            optimizer.step()
        ends.append(task.weights())
    assert equal(*ends)


def test_the_weights_are_the_same_bits_after_several_steps_without_an_optimiser(make_llama):
    task = Forgetting(make_llama())
    before = task.weights()
    smoothing = SAM(rho=1.0).begin(task.parameters)
    for step in range(3):
        smoothing.step(task.forget, task.retain, (0, step))
    assert equal(task.weights(), before)


def test_a_tensor_scope_moves_every_tensor_by_rho():
    _, moved = taken(Cubic(), SAM(rho=0.3, scope="tensor"))
    assert moved.tolist() == pytest.approx([0.3, 0.3])


def test_a_tensor_scope_leaves_a_tensor_without_gradient_alone():
    _, moved = taken(Cubic(1.0, 0.0), SAM(rho=0.3, scope="tensor"))
    assert moved.tolist() == pytest.approx([0.3, 0.0])


def test_the_adaptive_perturbation_has_norm_rho_in_units_of_the_weights():
    _, moved = taken(Cubic(), SAM(rho=0.3, adaptive=True, eta=0.5))
    size = torch.tensor([1.5, 2.5], dtype=torch.float64)
    assert (moved / size).norm().item() == pytest.approx(0.3, rel=1e-12)


def test_the_adaptive_perturbation_follows_the_formula():
    _, moved = taken(Cubic(), SAM(rho=0.3, adaptive=True, eta=0.5))
    # T g = (1.5 * 7, 2.5 * 4) = (10.5, 10), ε = ρ T (T g) / ‖T g‖
    norm = math.hypot(10.5, 10.0)
    assert moved.tolist() == pytest.approx([0.3 * 1.5 * 10.5 / norm, 0.3 * 2.5 * 10.0 / norm], rel=1e-12)


def test_a_weight_with_a_masked_gradient_is_not_moved():
    gradient = torch.tensor([3.0, 0.0, 4.0])
    scale_to_perturbation([gradient], [25.0], [torch.tensor([1.0, 100.0, 1.0])], rho=1.0)
    assert gradient[1] == 0.0


def test_the_report_gives_the_loss_here_and_at_the_worst_point():
    cubic = Cubic()
    report = SAM(rho=0.3).begin(cubic.parameters).step(cubic.forget, cubic.retain, (0, 0))
    assert report.statistics["forget_loss"] == 5.0 < report.statistics["perturbed_forget_loss"]
    assert report.loss == report.statistics["perturbed_forget_loss"] + 5.0


def test_eta_without_adaptive_is_refused():
    with pytest.raises(ValidationError, match="no effect without adaptive"):
        SAM(eta=0.1)


def test_a_negative_rho_is_refused():
    with pytest.raises(ValidationError, match="rho"):
        SAM(rho=-0.1)
