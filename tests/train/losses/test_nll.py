import pytest
import torch
from torch.nn import functional as F

from temper.train.losses.nll import NLL, nll_sum
from tests.train.batches import FORGET
from tests.train.losses.passes import batch_of, gradient_of, mean_of, normal, padding_changes


@pytest.mark.parametrize("sign", [1, -1])
def test_the_gradient_agrees_with_finite_differences(sign):
    assert torch.autograd.gradcheck(lambda x: nll_sum(x, sign), (normal(2, 3).abs().requires_grad_(),))


def test_descent_is_the_model_s_own_loss(trained, frozen):
    batch = batch_of()
    own = trained(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss
    torch.testing.assert_close(mean_of(NLL("retain"), trained, frozen, batch), own.double(), rtol=1e-6, atol=0)


def test_ascent_is_descent_turned_around(trained, frozen):
    batch = batch_of()
    up = gradient_of(mean_of(NLL("forget", sign=-1), trained, frozen, batch), trained)
    down = gradient_of(mean_of(NLL("forget"), trained, frozen, batch), trained)
    assert torch.equal(up, -down)


def test_tokens_of_unequal_rows_are_pooled(trained, frozen):
    term = NLL("forget")
    singles = [mean_of(term, trained, frozen, batch_of([row])) * (len(row) - 2) for row in FORGET[:2]]
    pooled = mean_of(term, trained, frozen, batch_of(FORGET[:2]))
    torch.testing.assert_close(pooled, sum(singles) / 5, rtol=1e-6, atol=0)


def test_padding_changes_nothing(trained, frozen):
    assert padding_changes(NLL("forget"), trained, frozen) < 1e-6


def test_cross_entropy_over_labels_gives_the_same_sum():
    logits, labels = normal(4, 7), torch.tensor([0, 3, 6, 2])
    nll = -torch.log_softmax(logits, -1).gather(1, labels.unsqueeze(1)).view(2, 2)
    torch.testing.assert_close(nll_sum(nll), F.cross_entropy(logits, labels, reduction="sum"))
