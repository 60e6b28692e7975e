import math

import pytest
import torch
from torch.nn import functional as F

from temper.train.losses.npo_muse_compat import NPOMuseCompat, logit_npo_sum
from temper.train.losses.term import Cache, Outputs
from tests.train.losses.passes import batch_of, before, mean_of, normal, padding_changes, run


def test_the_gradient_agrees_with_finite_differences():
    ref = normal(2, 3, seed=1)
    assert torch.autograd.gradcheck(lambda x: logit_npo_sum(x, ref, 0.7), (normal(2, 3).requires_grad_(),))


def test_the_loss_at_the_start_is_two_over_beta_times_ln_two(model, frozen):
    value = mean_of(NPOMuseCompat("forget", beta=0.1), model, frozen, batch_of()).item()
    assert value == pytest.approx(2 / 0.1 * math.log(2), rel=1e-12)


def test_the_reduction_is_one_mean_over_all_cells_and_the_vocabulary(trained, frozen):
    batch = batch_of()
    given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    difference = frozen(**given).logits - trained(**given).logits
    plain = -F.logsigmoid(0.1 * difference).mean() * 2 / 0.1
    torch.testing.assert_close(mean_of(NPOMuseCompat("forget", beta=0.1), trained, frozen, batch), plain, rtol=1e-10, atol=0)


def test_a_constant_on_all_logits_changes_the_loss_as_it_changes_no_probability(trained, frozen):
    batch = batch_of()
    out, cache = run(trained, batch), before(frozen, batch)
    term = NPOMuseCompat("forget")
    first = term(out, batch, cache).total
    lowered = term(Outputs(logits={"all": out.logits["all"] - 5.0}), batch, Cache(logits=cache.logits)).total
    assert lowered < first - 1.0


def test_padding_changes_the_loss(trained, frozen):
    assert padding_changes(NPOMuseCompat("forget"), trained, frozen) > 1e-6
