import pytest
import torch
from torch.nn import functional as F

from temper.train.engine import Engine, count_units
from temper.train.losses.reflection import ReflectionPenalty, listed_probability_N
from temper.train.losses.term import Cache, Outputs
from tests.train.batches import FORGET, rows
from tests.train.losses.passes import batch_of, mean_of, padding_changes, random_log_probs

WORDS = (5, 9, 2)


def test_the_penalty_is_the_mean_over_the_list_then_over_positions_then_a_sum_over_rows():
    """Row 1 predicts twice, with (.5, .3, .2) and (1, 0, 0); row 2 once, with (.2, .2, .6); the list is {1, 2}.

    Row 1: (.25 + 0) / 2 = .125; row 2: .4; together .525, a mean of .2625 over rows.
    """
    batch = batch_of([[0, 1, 2], [0, 2]], prompt=1)
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0], [0.2, 0.2, 0.6]], dtype=torch.float64)
    term = ReflectionPenalty("forget", tokens=(1, 2))
    value = term(Outputs(log_probs={"nonpad": probabilities.log()}), batch, Cache())
    assert value.total.item() == pytest.approx(0.525) and value.statistics["reflection_probability"].item() == pytest.approx(
        0.525
    )
    assert term.count(batch) == 2


def test_a_list_of_all_tokens_has_a_mean_probability_of_one_over_the_vocabulary():
    found = listed_probability_N(random_log_probs(4, 7), torch.arange(7))
    torch.testing.assert_close(found, torch.full((4,), 1 / 7, dtype=torch.float64))


def naive(model, tensors, words):
    """Return the penalty by a loop over rows, positions and words, on the whole softmax."""
    logits = model(input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"]).logits
    total = 0.0
    for row, mask in enumerate(tensors["attention_mask"]):
        positions = range(int(mask.sum()) - 1)
        of_row = 0.0
        for place in positions:
            p = F.softmax(logits[row, place], dim=-1)
            of_row = of_row + sum(p[word] for word in words) / len(words)
        total = total + of_row / len(positions)
    return total / len(tensors["attention_mask"])


def test_the_engine_gives_the_penalty_and_the_gradient_of_a_loop_over_a_whole_softmax(make_llama):
    model, tensors = make_llama(layers=2), rows(FORGET)
    term = ReflectionPenalty("forget", 3.0, tokens=WORDS)
    ours = Engine(model, [term])({"forget": tensors}, count_units([term], {"forget": tensors}), [0])
    ours["loss"].backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    plain = naive(model, tensors, WORDS)
    (3.0 * plain).backward()
    assert float(ours["values"][0]) == pytest.approx(plain.item(), rel=1e-5)
    assert ours["loss"].item() == pytest.approx(3.0 * plain.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-7)


def test_the_gradient_agrees_with_finite_differences():
    batch = batch_of(FORGET[:2])
    count = int((batch.attention_mask.sum(1) - 1).sum())
    term = ReflectionPenalty("forget", tokens=(1, 3))

    def penalty(logits_NV):
        return term(Outputs(log_probs={"nonpad": torch.log_softmax(logits_NV, dim=-1)}), batch, Cache()).total

    assert torch.autograd.gradcheck(penalty, (random_log_probs(count, 5).requires_grad_(),))


def test_padding_changes_nothing(trained, frozen):
    assert padding_changes(ReflectionPenalty("forget", tokens=WORDS), trained, frozen) < 1e-9


def test_descent_on_the_penalty_makes_the_words_less_likely(model, frozen):
    term, batch = ReflectionPenalty("forget", tokens=WORDS), batch_of()
    before = mean_of(term, model, frozen, batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before.backward()
    optimizer.step()
    assert 0.0 < mean_of(term, model, frozen, batch).item() < before.item() < 1.0


def test_positions_of_which_nothing_follows_do_not_count():
    """A row of one token predicts nothing and has a penalty of zero."""
    batch = batch_of([[0, 1, 2], [0]], prompt=1)
    found = ReflectionPenalty("forget", tokens=(1,))(
        Outputs(log_probs={"nonpad": torch.tensor([[0.5, 0.25, 0.25]] * 2, dtype=torch.float64).log()}), batch, Cache()
    )
    assert found.total.item() == pytest.approx(0.25)
