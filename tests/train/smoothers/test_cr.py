import math

import pytest
import torch

from temper.train.smoothers import CR
from tests.train.smoothers.problems import Cubic, Forgetting, nothing, relative_gap

H = 0.2
X, Y = 1 + H * 7 / math.sqrt(65), 2 + H * 4 / math.sqrt(65)


def test_the_penalty_gradient_is_the_rise_of_the_gradient():
    cubic = Cubic()
    CR(coefficient=3.0, radius=H).begin(cubic.parameters).step(cubic.forget, nothing, (0, 0))
    rise = [3 * X**2 + Y**2 - 7, 2 * X * Y - 4]
    assert cubic.gradient.tolist() == pytest.approx([7 + 3 * rise[0], 4 + 3 * rise[1]], rel=1e-12)


def test_the_report_gives_the_rise_of_the_loss():
    cubic = Cubic()
    report = CR(coefficient=3.0, radius=H).begin(cubic.parameters).step(cubic.forget, cubic.retain, (0, 0))
    penalty = 3 * (X**3 + X * Y**2 - 5)
    assert report.statistics["penalty"] == pytest.approx(penalty)
    assert report.loss == pytest.approx(5.0 + penalty + 5.0)


def test_the_gradient_is_that_of_the_reported_loss_with_the_direction_held_fixed(make_llama):
    task = Forgetting(make_llama().double())
    smoother = CR(coefficient=3.0, radius=0.05)
    first = torch.autograd.grad(task.forget_loss(), task.parameters)
    norm = sum(g.square().sum() for g in first).sqrt()
    moved = {name: p + 0.05 * g / norm for (name, p), g in zip(task.model.named_parameters(), first, strict=True)}
    logits = torch.func.functional_call(task.model, moved, (), {"input_ids": task.forget_rows}).logits[:, :-1]
    there = -torch.nn.functional.cross_entropy(logits.flatten(0, 1), task.forget_rows[:, 1:].flatten())
    here = task.forget_loss()
    expected = torch.autograd.grad(here + 3.0 * (there - here), task.parameters)
    smoother.begin(task.parameters).step(task.forget, nothing, (0, 0))
    # transformers computes norms and softmax of a float64 Llama in float32
    assert relative_gap(task.gradients(), expected) < 1e-5
