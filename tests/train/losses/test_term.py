import pytest
import torch

from temper.train.losses.dpo import DPO
from temper.train.losses.kl import KL
from temper.train.losses.nll import NLL
from temper.train.losses.npo_batch_mean import NPOBatchMean
from temper.train.losses.npo_muse_compat import NPOMuseCompat
from temper.train.losses.term import followed_BL, labelled_BL, next_tokens_N, positions_BL, predicting_BL, token_nll_BL
from tests.train.batches import FORGET
from tests.train.losses.passes import batch_of, random_log_probs


@pytest.fixture
def batch():
    return batch_of(FORGET[:2])  # 5 and 4 tokens, the first two unscored


def test_masks_mark_what_they_say(batch):
    assert labelled_BL(batch).tolist() == [[False, False, True, True, True], [False, False, True, True, False]]
    assert predicting_BL(batch).tolist() == [[False, True, True, True, False], [False, True, True, False, False]]
    assert followed_BL(batch).tolist() == [[True, True, True, True, False], [True, True, True, False, False]]


def test_positions_are_named_by_what_is_predicted_there(batch):
    assert torch.equal(positions_BL(batch, "labelled"), predicting_BL(batch))
    assert torch.equal(positions_BL(batch, "nonpad"), followed_BL(batch))
    assert positions_BL(batch, "all").all()


def test_next_tokens_follow_their_positions_row_by_row(batch):
    assert next_tokens_N(batch, "labelled").tolist() == [6, 7, 2, 9, 2]
    assert next_tokens_N(batch, "nonpad").tolist() == [5, 6, 7, 2, 8, 9, 2]
    assert next_tokens_N(batch, "all").tolist() == [5, 6, 7, 2, 0, 8, 9, 2, 0, 0]


@pytest.mark.parametrize(
    ("term", "count"),
    [
        (DPO("forget"), 2),
        (NLL("forget"), 5),
        (KL("retain", mask="labelled"), 5),
        (KL("retain"), 7),
        (KL("retain", mask="all"), 10),
        (NPOMuseCompat("forget"), 10),
        (NPOBatchMean("forget"), 1),
    ],
    ids=["rows", "tokens", "kl labelled", "kl nonpad", "kl all", "cells", "batches"],
)
def test_terms_count_the_units_of_their_sum(batch, term, count):
    assert term.count(batch) == count


def test_token_losses_lie_at_the_token_they_score(batch):
    log_probs = random_log_probs(10, 32)
    nll = token_nll_BL(batch, positions_BL(batch, "all"), log_probs)
    assert nll[0, 2] == -log_probs[1, 6] and nll[1, 3] == -log_probs[7, 2]
    assert torch.equal(nll != 0, labelled_BL(batch))
