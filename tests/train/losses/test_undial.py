import pytest
import torch
from torch.nn import functional as F

from temper.train.losses.term import Cache, Outputs
from temper.train.losses.undial import Undial, adjusted_log_probs, undial_sum
from tests.train.losses.passes import batch_of, before, gradient_of, mean_of, normal, padding_changes, random_log_probs, run

TOKENS = torch.tensor([3, 0])


def test_the_gradient_agrees_with_finite_differences():
    teacher = random_log_probs(2, 5, seed=1)
    assert torch.autograd.gradcheck(
        lambda x: undial_sum(torch.log_softmax(x, -1), teacher, TOKENS, 2.0), (normal(2, 5).requires_grad_(),)
    )


def test_log_probabilities_give_the_target_that_logits_give():
    logits = normal(2, 5) + 7.0
    lowered = logits - 10.0 * F.one_hot(TOKENS, 5)
    target = adjusted_log_probs(torch.log_softmax(logits, -1), TOKENS, 10.0)
    torch.testing.assert_close(target, torch.log_softmax(lowered, -1), rtol=1e-12, atol=1e-12)


def test_without_a_penalty_nothing_moves_at_the_start(model, frozen):
    assert gradient_of(mean_of(Undial("forget", beta=0.0), model, frozen, batch_of()), model).abs().max().item() < 1e-12


def test_with_a_penalty_the_true_token_is_pushed_down_at_the_start():
    logits = normal(2, 5).requires_grad_()
    undial_sum(torch.log_softmax(logits, -1), torch.log_softmax(logits.detach(), -1), TOKENS, 10.0).backward()
    true = F.one_hot(TOKENS, 5).bool()
    assert (logits.grad[true] > 0).all() and (logits.grad[~true] < 0).all()


def test_the_loss_is_least_at_its_target():
    teacher = random_log_probs(2, 5)
    target = adjusted_log_probs(teacher, TOKENS, 3.0)
    entropy = -(target.exp() * target).sum()
    torch.testing.assert_close(undial_sum(target, teacher, TOKENS, 3.0), entropy)
    assert undial_sum(random_log_probs(2, 5, seed=1), teacher, TOKENS, 3.0) > entropy


def test_labelled_positions_alone_are_counted(trained, frozen):
    batch = batch_of()
    logits = trained(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    ref = frozen(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    losses = []
    for row, place in (batch.labels != -100).nonzero().tolist():
        lowered = ref[row, place - 1].clone()
        lowered[batch.labels[row, place]] -= 10.0
        losses.append(F.cross_entropy(logits[row, place - 1], lowered.softmax(-1)))
    ours = mean_of(Undial("forget", beta=10.0), trained, frozen, batch)
    torch.testing.assert_close(ours, torch.stack(losses).mean(), rtol=1e-10, atol=0)


def test_what_the_prompt_says_does_not_enter(trained, frozen):
    batch, other = batch_of(), batch_of()
    other.input_ids[:, :2] = 33
    out, cache = run(trained, batch), before(frozen, batch)
    given = (
        Outputs(log_probs={"labelled": out.log_probs["labelled"]}),
        Cache(log_probs={"labelled": cache.log_probs["labelled"]}),
    )
    term = Undial("forget")
    assert term(given[0], batch, given[1]).total == term(given[0], other, given[1]).total


@pytest.mark.parametrize("beta", [0.0, 10.0])
def test_padding_changes_nothing(trained, frozen, beta):
    assert padding_changes(Undial("forget", beta=beta), trained, frozen) < 1e-6


def test_no_column_but_that_of_the_true_token_is_lowered():
    teacher = random_log_probs(2, 300)
    lowered = teacher - adjusted_log_probs(teacher, TOKENS, 5.0)
    for row, token in enumerate(TOKENS.tolist()):
        others = torch.cat([lowered[row, :token], lowered[row, token + 1 :]])
        torch.testing.assert_close(others, others[:1].expand(299))
        assert lowered[row, token].item() - others[0].item() == pytest.approx(5.0)
