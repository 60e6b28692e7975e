import torch
from torch.nn import functional as F

from temper.train.losses.ceu import CrossEntropyUnlearning, ceu_sum, kept_BL
from tests.train.batches import FORGET
from tests.train.losses.passes import batch_of, gradient_at, mean_of, normal, padding_changes, random_log_probs

TOKENS = torch.tensor([3, 0, 4])


def without(logits):
    """The model's distribution with the true token taken out."""
    return logits.masked_fill(F.one_hot(TOKENS, logits.shape[1]).bool(), float("-inf")).softmax(-1)


def test_the_logit_gradient_is_the_difference_of_the_two_distributions():
    logits = normal(3, 6)
    slope = gradient_at(lambda z: ceu_sum(torch.log_softmax(z, -1), TOKENS) / 3, logits)
    torch.testing.assert_close(slope, (logits.softmax(-1) - without(logits)) / 3, rtol=0, atol=1e-12)


def test_the_gradient_agrees_with_finite_differences_of_the_loss_with_its_target_held():
    logits = normal(3, 6)
    target, size = without(logits), 1e-6

    def held(z):
        return -(target * torch.log_softmax(z, -1)).sum()

    steps = size * torch.eye(18, dtype=torch.float64).view(18, 3, 6)
    numeric = torch.stack([(held(logits + step) - held(logits - step)) / (2 * size) for step in steps]).view(3, 6)
    slope = gradient_at(lambda z: ceu_sum(torch.log_softmax(z, -1), TOKENS), logits)
    torch.testing.assert_close(slope, numeric, rtol=0, atol=1e-8)


def test_a_token_that_is_forgotten_is_pushed_no_further():
    logits = normal(3, 6) - 60.0 * F.one_hot(TOKENS, 6)
    assert gradient_at(lambda z: ceu_sum(torch.log_softmax(z, -1), TOKENS), logits).abs().max().item() < 1e-12


def test_a_certain_token_is_pushed_with_a_bounded_force():
    logits = normal(3, 6) + 60.0 * F.one_hot(TOKENS, 6)
    slope = gradient_at(lambda z: ceu_sum(torch.log_softmax(z, -1), TOKENS), logits)
    assert slope.isfinite().all() and 0.99 < slope.abs().max().item() <= 1.0


def test_the_first_answer_tokens_of_each_row_are_left_alone():
    batch = batch_of(FORGET[:2])
    assert kept_BL(batch, 0).tolist() == [[False, True, True, True, False], [False, True, True, False, False]]
    assert kept_BL(batch, 1).tolist() == [[False, False, True, True, False], [False, False, True, False, False]]
    assert CrossEntropyUnlearning("forget").count(batch) == 3


def test_a_row_with_nothing_left_contributes_nothing(trained, frozen):
    long, short = [1, 5, 6, 7, 2], [1, 8, 9]
    term = CrossEntropyUnlearning("forget")
    assert term.count(batch_of([short])) == 0 and term.count(batch_of([long, short])) == 2
    alone, both = (mean_of(term, trained, frozen, batch_of(some)) for some in ([long], [long, short]))
    torch.testing.assert_close(both, alone, rtol=1e-6, atol=0)


def test_a_batch_with_nothing_left_has_a_loss_of_zero_and_a_gradient(trained, frozen):
    loss = mean_of(CrossEntropyUnlearning("forget", skip=9), trained, frozen, batch_of())
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is None or not p.grad.any() for p in trained.parameters())


def test_the_kept_tokens_are_those_that_are_scored(trained, frozen):
    batch = batch_of(FORGET[:1])
    log_probs = trained(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.log_softmax(-1)
    plain = ceu_sum(log_probs[0, 2:4], torch.tensor([7, 2])) / 2
    torch.testing.assert_close(mean_of(CrossEntropyUnlearning("forget"), trained, frozen, batch), plain, rtol=1e-10, atol=0)


def test_the_target_carries_no_gradient():
    log_probs = random_log_probs(3, 6)
    slope = gradient_at(lambda x: ceu_sum(x, TOKENS), log_probs)
    torch.testing.assert_close(slope, -without(log_probs))


def test_padding_changes_nothing(trained, frozen):
    assert padding_changes(CrossEntropyUnlearning("forget"), trained, frozen) < 1e-6
