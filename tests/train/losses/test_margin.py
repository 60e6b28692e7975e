import pytest
import torch

from temper.train.losses.margin import Margin, margin_sum
from tests.train.losses.passes import batch_of, gradient_at, mean_of, normal, padding_changes


def test_the_gradient_agrees_with_finite_differences():
    assert torch.autograd.gradcheck(margin_sum, (normal(2, 5).requires_grad_(),))


def test_log_probabilities_give_what_logits_give():
    logits = normal(3, 6) + 5.0
    torch.testing.assert_close(margin_sum(torch.log_softmax(logits, -1)), margin_sum(logits), rtol=1e-12, atol=0)


def test_the_loss_and_its_gradient_are_zero_where_all_logits_are_equal():
    flat = torch.full((2, 5), 3.0, dtype=torch.float64)
    assert margin_sum(flat).item() == 0.0
    assert not gradient_at(margin_sum, flat).any()


def test_the_gradient_moves_no_logit_mean():
    assert gradient_at(margin_sum, normal(3, 6)).sum(dim=-1).abs().max().item() < 1e-14


def test_the_loss_is_the_mean_over_labelled_tokens_of_the_model_s_logits(trained, frozen):
    batch = batch_of()
    logits = trained(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1]
    margins = (logits.amax(-1) - logits.mean(-1))[batch.labels[:, 1:] != -100]
    torch.testing.assert_close(mean_of(Margin("forget"), trained, frozen, batch), (margins**2).mean(), rtol=1e-10, atol=0)


def test_padding_changes_nothing(trained, frozen):
    assert padding_changes(Margin("forget"), trained, frozen) < 1e-6


@pytest.mark.parametrize("shift", [-3.0, 100.0])
def test_a_constant_on_all_logits_changes_nothing(shift):
    torch.testing.assert_close(margin_sum(normal(2, 5) + shift), margin_sum(normal(2, 5)))
