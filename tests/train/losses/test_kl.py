import pytest
import torch

from temper.train.losses.kl import KL, kl_sum
from tests.train.losses.passes import (
    KINDS,
    batch_of,
    gradient_of,
    mean_of,
    normal,
    padding_changes,
    random_log_probs,
)


def test_the_gradient_agrees_with_finite_differences():
    teacher = random_log_probs(2, 3, seed=1)
    assert torch.autograd.gradcheck(lambda x: kl_sum(teacher, torch.log_softmax(x, -1)), (normal(2, 3).requires_grad_(),))


@pytest.mark.parametrize("mask", KINDS)
def test_kl_is_zero_at_the_teacher(model, frozen, mask):
    assert mean_of(KL("retain", mask=mask), model, frozen, batch_of()).item() == pytest.approx(0.0, abs=1e-12)


def test_the_gradient_at_the_teacher_is_zero(model, frozen):
    assert gradient_of(mean_of(KL("retain"), model, frozen, batch_of()), model).abs().max().item() < 1e-12


@pytest.mark.parametrize("mask", KINDS)
def test_kl_is_positive_elsewhere(trained, frozen, mask):
    assert mean_of(KL("retain", mask=mask), trained, frozen, batch_of()).item() > 1e-3


def test_kl_agrees_with_the_library():
    teacher, student = random_log_probs(5, 7, seed=1), random_log_probs(5, 7, seed=2)
    library = torch.nn.functional.kl_div(student, teacher, reduction="sum", log_target=True)
    torch.testing.assert_close(kl_sum(teacher, student), library, rtol=1e-12, atol=0)


@pytest.mark.parametrize("mask", ["labelled", "nonpad"])
def test_padding_changes_nothing(trained, frozen, mask):
    assert padding_changes(KL("retain", mask=mask), trained, frozen) < 1e-6


def test_padding_changes_the_average_over_all_cells(trained, frozen):
    assert padding_changes(KL("retain", mask="all"), trained, frozen) > 1e-3


def test_the_masks_compare_different_positions(trained, frozen):
    assert len({mean_of(KL("retain", mask=mask), trained, frozen, batch_of()).item() for mask in KINDS}) == 3


def test_the_needs_name_the_mask():
    assert KL("retain").needs == {"log_probs:nonpad", "ref_log_probs:nonpad"}
    assert KL("retain", mask="all").needs == {"log_probs:all", "ref_log_probs:all"}
