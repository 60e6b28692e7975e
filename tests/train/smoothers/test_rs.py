import pytest
import torch

from temper.train.smoothers import RS
from temper.train.smoothers.rs import noise
from tests.train.smoothers.problems import Cubic, nothing


def points(key, smoother=RS(rho=0.1)):  # noqa: B008
    cubic = Cubic()
    smoother.begin(cubic.parameters).step(cubic.forget, cubic.retain, key)
    return torch.stack(cubic.forget_at)


def test_the_gradient_is_the_mean_over_the_points_that_were_visited():
    cubic = Cubic()
    RS(rho=0.1).begin(cubic.parameters).step(cubic.forget, nothing, (0, 0))
    x, y = torch.stack(cubic.forget_at).unbind(dim=1)
    expected = torch.stack([(3 * x**2 + y**2).mean(), (2 * x * y).mean()])
    assert torch.allclose(cubic.gradient, expected, rtol=1e-14)


def test_a_quadratic_gradient_tends_to_that_of_the_smoothed_loss_as_draws_grow():
    # E ∇(x³ + x y²) = (3 x² + y² + 4 ρ², 2 x y)
    cubic = Cubic()
    RS(rho=0.5, draws=4000).begin(cubic.parameters).step(cubic.forget, nothing, (0, 0))
    assert cubic.gradient.tolist() == pytest.approx([8.0, 4.0], abs=0.2)


def test_the_draws_of_a_step_differ():
    assert len({tuple(point) for point in points((0, 0)).tolist()}) == 3


def test_the_same_key_gives_the_same_points_whatever_the_global_state():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = points((0, 7))
        torch.manual_seed(2)
        assert torch.equal(points((0, 7)), first)


@pytest.mark.parametrize("key", [(1, 7), (0, 8)], ids=["another seed", "another step"])
def test_another_key_gives_other_points(key):
    assert not (points(key) == points((0, 7))).any()


def test_the_global_state_is_not_used_up():
    with torch.random.fork_rng():
        before = torch.random.get_rng_state()
        points((0, 0))
        assert torch.equal(torch.random.get_rng_state(), before)


def test_the_noise_has_standard_deviation_one():
    drawn = noise(torch.zeros(200, 200), (0, 0), 0, 0)
    assert drawn.std().item() == pytest.approx(1.0, abs=0.02) and abs(drawn.mean().item()) < 0.02


def test_single_and_double_precision_see_the_same_noise():
    single, double = (noise(torch.zeros(9, dtype=dtype), (0, 3), 1, 2) for dtype in (torch.float32, torch.float64))
    assert torch.equal(single.double(), double)


def test_tensors_of_the_same_shape_get_different_noise():
    assert not torch.equal(noise(torch.zeros(9), (0, 3), 1, 0), noise(torch.zeros(9), (0, 3), 1, 1))


def test_the_report_gives_the_mean_loss_of_the_draws():
    cubic = Cubic()
    report = RS(rho=0.1).begin(cubic.parameters).step(cubic.forget, cubic.retain, (0, 0))
    x, y = torch.stack(cubic.forget_at).unbind(dim=1)
    assert report.loss == pytest.approx((x**3 + x * y**2).mean().item() + 5.0)
