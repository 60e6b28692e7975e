import pytest
import torch

from temper.train.losses.activation import Anchor, Steer, masked_square_sum, token_mask_BL, token_targets_BLD
from temper.train.losses.term import Cache, Outputs
from tests.train.batches import FORGET
from tests.train.losses.passes import batch_of, gradient_at, mean_of, normal, padding_changes

CONTROL = torch.full((32,), 0.5, dtype=torch.float64)
MASKS = [("labelled", True), ("answer", True), ("nonpad", True), ("all", False)]


@pytest.fixture
def batch():
    return batch_of(FORGET[:2])


def test_the_gradient_agrees_with_finite_differences():
    mask = torch.tensor([[True, False, True], [True, True, True]])
    target = normal(2, seed=1)
    assert torch.autograd.gradcheck(lambda x: masked_square_sum(x, target, mask), (normal(2, 3, 2).requires_grad_(),))


def test_the_loss_is_a_mean_over_tokens_then_a_sum_over_rows():
    hidden = torch.tensor([[[1.0, 1.0], [3.0, 1.0]], [[2.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, True], [True, False]])
    assert masked_square_sum(hidden, torch.zeros(2), mask).item() == pytest.approx((1 + 5) / 2 + 2)


def test_token_masks_mark_what_they_say(batch):
    assert token_mask_BL(batch, "labelled").sum(1).tolist() == [3, 2]
    assert token_mask_BL(batch, "answer").sum(1).tolist() == [4, 3]
    assert token_mask_BL(batch, "nonpad").sum(1).tolist() == [5, 4]
    assert token_mask_BL(batch, "all").sum(1).tolist() == [5, 5]


@pytest.mark.parametrize(("mask", "same"), MASKS)
@pytest.mark.parametrize("factor", [None, 2.0], ids=["fixed", "adaptive"])
def test_padding_changes_steering_only_where_padding_is_counted(trained, frozen, mask, same, factor):
    term = Steer("forget", layer=1, control_D=CONTROL, mask=mask, factor=factor)
    assert (padding_changes(term, trained, frozen, layers=(1,)) < 1e-6) == same


@pytest.mark.parametrize(("mask", "same"), MASKS)
def test_padding_changes_the_anchor_only_where_padding_is_counted(trained, frozen, mask, same):
    assert (padding_changes(Anchor("retain", layer=1, mask=mask), trained, frozen, layers=(1,)) < 1e-6) == same


def test_the_anchor_is_zero_where_nothing_moved(model, frozen, batch):
    assert mean_of(Anchor("retain", layer=1), model, frozen, batch, layers=(1,)).item() == 0.0


def test_steering_to_zero_pulls_hidden_states_towards_zero(batch):
    hidden = normal(2, 5, 4)
    term = Steer("forget", layer=0, control_D=torch.zeros(4, dtype=torch.float64), mask="nonpad")
    step = gradient_at(lambda h: term(Outputs(hidden={0: h}), batch, Cache()).total, hidden)
    kept = token_mask_BL(batch, "nonpad")
    torch.testing.assert_close(torch.cosine_similarity(step, hidden, dim=-1)[kept], torch.ones(9, dtype=torch.float64))


def test_the_adaptive_length_follows_the_token(batch):
    ref = normal(2, 5, 4)
    targets = token_targets_BLD(ref, torch.tensor([0.0, 0.3, 0.4, 0.0], dtype=torch.float64), 3.0)
    torch.testing.assert_close(targets.norm(dim=-1), 3.0 * ref.norm(dim=-1))


def test_the_adaptive_length_does_not_depend_on_the_length_of_the_control_vector(batch):
    out, cache = Outputs(hidden={0: normal(2, 5, 4)}), Cache(hidden={0: normal(2, 5, 4, seed=1)})
    direction = normal(4, seed=2)
    short, long = (
        Steer("forget", layer=0, control_D=length * direction, factor=2.0)(out, batch, cache).total for length in (1, 50)
    )
    torch.testing.assert_close(short, long)


def test_the_adaptive_length_equals_the_fixed_one_where_all_norms_are_one(batch):
    out, direction = Outputs(hidden={0: normal(2, 5, 4)}), torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    cache = Cache(hidden={0: torch.nn.functional.normalize(normal(2, 5, 4, seed=1), dim=-1)})
    adaptive = Steer("forget", layer=0, control_D=direction, factor=6.5)(out, batch, cache).total
    fixed = Steer("forget", layer=0, control_D=6.5 * direction)(out, batch, Cache()).total
    torch.testing.assert_close(adaptive, fixed)


def test_only_the_adaptive_length_needs_the_model_from_before():
    assert Steer("forget", layer=3).needs == {"hidden:3"}
    assert Steer("forget", layer=3, factor=2.0).needs == {"hidden:3", "ref_hidden:3"}
