import math

import numpy as np
import pytest
import torch

from temper.assess.records import moments, score
from temper.data import Item, batching


def make_items(lengths, vocabulary=64):
    draw = torch.Generator().manual_seed(0)
    items = []
    for number, length in enumerate(lengths):
        ids = torch.randint(3, vocabulary, (length,), generator=draw).tolist()
        given = max(1, length // 3)
        items.append(Item(f"row{number}", (*ids, 2), (*[-100] * given, *ids[given:], 2), {}, "", ""))
    return items


ITEMS = make_items([3, 12, 5, 30, 7, 7, 18])


def assert_same(one, other, tolerance=1e-5):
    for name in ("logp", "mu", "var"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=tolerance, atol=tolerance)
    for name in ("hit", "token", "is_eos"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_records_equal_full_logits_one_row_at_a_time(make_llama):
    model = make_llama()
    for item, found in zip(ITEMS, score(model, ITEMS, pad_id=0, eos_id=2), strict=True):
        with torch.no_grad():
            log_p = model(input_ids=torch.tensor([item.input_ids])).logits[0].double().log_softmax(-1)
        places = [place for place, label in enumerate(item.labels) if label != -100]
        rows = log_p[[place - 1 for place in places]]
        tokens = torch.tensor([item.labels[place] for place in places])
        p = rows.exp()
        mean = (p * rows).sum(1)
        assert found.id == item.id and found.token.tolist() == tokens.tolist()
        np.testing.assert_allclose(found.logp, rows.gather(1, tokens[:, None])[:, 0], rtol=1e-5)
        np.testing.assert_allclose(found.mu, mean, rtol=1e-5)
        np.testing.assert_allclose(found.var, (p * rows.square()).sum(1) - mean.square(), rtol=1e-4)
        assert found.hit.tolist() == (rows.argmax(1) == tokens).tolist()
        assert found.is_eos.tolist() == [False] * (len(places) - 1) + [True]


def test_records_do_not_depend_on_how_rows_are_batched(make_llama, monkeypatch):
    model = make_llama()
    together = score(model, ITEMS, pad_id=0, eos_id=2)
    monkeypatch.setattr(batching, "TOKENS_A_BATCH", 1)
    alone = score(model, ITEMS, pad_id=0, eos_id=2)
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)


def test_what_fills_does_not_matter(make_llama):
    model = make_llama()
    for one, other in zip(score(model, ITEMS, pad_id=0, eos_id=2), score(model, ITEMS, pad_id=9, eos_id=2), strict=True):
        assert_same(one, other)


def test_batches_hold_every_row_once_within_the_budgets(monkeypatch):
    monkeypatch.setattr(batching, "TOKENS_A_BATCH", 40)
    monkeypatch.setattr(batching, "LOGITS_A_BATCH", 64 * 14)
    groups = list(batching.length_sorted(ITEMS, 64))
    assert sorted(place for group in groups for place in group) == list(range(len(ITEMS)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(len(ITEMS[place].input_ids) for place in group) <= 40
        assert len(group) == 1 or sum(label != -100 for place in group for label in ITEMS[place].labels) <= 14


def test_rows_of_like_length_go_together(monkeypatch):
    monkeypatch.setattr(batching, "TOKENS_A_BATCH", 40)
    lengths = [[len(ITEMS[place].input_ids) for place in group] for group in batching.length_sorted(ITEMS, 64)]
    assert [length for group in lengths for length in group] == sorted(len(item.input_ids) for item in ITEMS)


def test_an_end_token_inside_the_answer_is_marked_where_it_stands(make_llama):
    item = Item("a", (1, 5, 2, 6, 2), (-100, -100, 2, 6, 2), {}, "", "")
    assert score(make_llama(), [item], pad_id=0, eos_id=2)[0].is_eos.tolist() == [True, False, True]
    assert score(make_llama(), [item], pad_id=0, eos_id=None)[0].is_eos.tolist() == [False, False, False]


def test_a_model_that_gives_nan_marks_its_records_failed(make_llama):
    model = make_llama()
    with torch.no_grad():
        model.lm_head.weight[7] = math.nan
    assert all(found.failed for found in score(model, ITEMS, pad_id=0, eos_id=2))


def test_a_sound_model_marks_none(make_llama):
    assert not any(found.failed for found in score(make_llama(), ITEMS, pad_id=0, eos_id=2))


def test_no_items_give_no_records(make_llama):
    assert score(make_llama(), [], pad_id=0, eos_id=2) == []


def test_the_mode_of_the_model_is_put_back(make_llama):
    model = make_llama().train()
    score(model, ITEMS[:1], pad_id=0, eos_id=2)
    assert model.training


def test_progress_ends_at_the_number_of_items(make_llama):
    seen = []
    score(make_llama(), ITEMS, pad_id=0, eos_id=2, progress=seen.append)
    assert seen[-1] == len(ITEMS)


def test_moments_of_a_worked_distribution():
    # p = 1/2, 1/4, 1/4, 0: mu = -(1/2 + 1/4 * 2 * 2) ln 2 = -1.5 ln 2; var = (1/2 * 0.25 + 1/2 * 0.25) ln2^2 = 0.25 ln2^2
    log_p = torch.tensor([[0.5, 0.25, 0.25, 0.0]]).log()
    mu, var = moments(log_p)
    assert mu.item() == pytest.approx(-1.5 * math.log(2))
    assert var.item() == pytest.approx(0.25 * math.log(2) ** 2)


def test_the_variance_of_a_certain_model_keeps_its_digits():
    logits = torch.tensor([[12.0, 0.0, 0.0]])
    _, var = moments(logits.log_softmax(-1))
    log_p = logits.double().log_softmax(-1)
    mean = (log_p.exp() * log_p).sum()
    assert var.item() == pytest.approx((log_p.exp() * (log_p - mean).square()).sum().item(), rel=1e-4)


def test_moments_of_many_positions_equal_those_of_each(make_llama):
    log_p = torch.randn(300, 11, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    mu, var = moments(log_p)
    each = [moments(row[None]) for row in log_p]
    torch.testing.assert_close(mu, torch.cat([m for m, _ in each]))
    torch.testing.assert_close(var, torch.cat([v for _, v in each]))
