"""The lean model, its products and the training loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from temper.draws import generator
from temper.world import products
from temper.world.llama import NORM_EPS, ROPE_THETA, LeanLlama, Shape
from temper.world.people import World
from temper.world.products import linear, tied_cross_entropy
from temper.world.spec import WorldSpec, world_spec
from temper.world.tokenizer import build_tokenizer
from temper.world.training import IGNORED, batches, learning_rate_at, train

SHAPE = Shape(vocabulary=50, width=16, n_layers=2, n_heads=4, max_length=32)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _config() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=32,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        rms_norm_eps=NORM_EPS,
        tie_word_embeddings=True,
    )


def _ids(batch: int = 3, length: int = 11) -> torch.Tensor:
    return torch.randint(0, 50, (batch, length), generator=torch.Generator().manual_seed(0))


def _loud(model: LeanLlama) -> LeanLlama:
    with torch.no_grad():
        model.matrices *= 6.0  # far from zero every part of the function shows
        model.vectors += torch.linspace(-0.3, 0.3, len(model.vectors))
    return model


def test_the_lean_forward_is_that_of_transformers() -> None:
    lean = _loud(LeanLlama(SHAPE, 0))
    model = lean.export(_config())
    with torch.no_grad():
        expected = model(input_ids=_ids()).logits
        torch.testing.assert_close(lean.logits(lean.hidden(_ids())), expected, atol=2e-5, rtol=1e-4)


def test_its_gradients_are_those_of_transformers() -> None:
    lean = _loud(LeanLlama(SHAPE, 0))
    model = lean.export(_config())
    ids = _ids()
    labels = ids[:, 1:].reshape(-1)
    functional.cross_entropy(model(input_ids=ids).logits[:, :-1].reshape(len(labels), -1), labels).backward()
    tied_cross_entropy(lean.hidden(ids)[:, :-1].reshape(len(labels), -1), lean.weights["embed"], labels).backward()
    layer = model.model.layers[1]
    pairs = {
        "embed": model.model.embed_tokens.weight,
        "1.out": layer.self_attn.o_proj.weight,
        "1.down": layer.mlp.down_proj.weight,
        "norm": model.model.norm.weight,
        "1.norm_mlp": layer.post_attention_layernorm.weight,
    }
    for name, parameter in pairs.items():
        torch.testing.assert_close(lean.weights[name].grad, parameter.grad, atol=1e-5, rtol=1e-3)


def test_padding_on_the_right_changes_nothing_before_it() -> None:
    lean = _loud(LeanLlama(SHAPE, 0))
    ids = _ids()
    with torch.no_grad():
        short, long = lean.hidden(ids[:, :7]), lean.hidden(ids)
    torch.testing.assert_close(short, long[:, :7], atol=1e-5, rtol=1e-4)


def test_the_initial_weights_depend_on_the_seed_alone() -> None:
    first, again, other = LeanLlama(SHAPE, 0), LeanLlama(SHAPE, 0), LeanLlama(SHAPE, 1)
    assert torch.equal(first.matrices, again.matrices)
    assert not torch.equal(first.matrices, other.matrices)


def test_the_gradients_of_all_weights_lie_in_the_flat_ones() -> None:
    lean = LeanLlama(SHAPE, 0)
    lean.hidden(_ids()).square().sum().backward()
    assert lean.matrices.grad is not None
    assert lean.matrices.grad.norm() == pytest.approx(
        sum(w.grad.square().sum().item() for w in lean.weights.values() if w.grad is not None and w.ndim == 2) ** 0.5, rel=1e-4
    )


@pytest.mark.parametrize("onednn", [False, True])
def test_the_linear_map_has_the_values_and_gradients_of_torch(monkeypatch: pytest.MonkeyPatch, onednn: bool) -> None:
    if onednn and not products._has_onednn():
        pytest.skip("this torch has no oneDNN product")
    monkeypatch.setattr(products, "_ONEDNN", onednn)
    g = torch.Generator().manual_seed(1)
    for out in (3, 24):
        x = torch.randn(4, 5, 8, generator=g, requires_grad=True)
        weight = torch.randn(out, 8, generator=g, requires_grad=True)
        upstream = torch.randn(4, 5, out, generator=g)
        expected = torch.autograd.grad(functional.linear(x, weight), (x, weight), upstream)
        y = linear(x, weight)
        torch.testing.assert_close(y, functional.linear(x, weight))
        for got, want in zip(torch.autograd.grad(y, (x, weight), upstream), expected, strict=True):
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 63, 64, 65])
def test_the_tied_loss_has_the_value_and_gradients_of_torch(rows: int) -> None:
    g = torch.Generator().manual_seed(2)
    hidden = torch.randn(rows, 8, generator=g, requires_grad=True)
    embed = torch.randn(21, 8, generator=g, requires_grad=True)
    labels = torch.randint(0, 21, (rows,), generator=g)
    expected = functional.cross_entropy(hidden @ embed.T, labels)
    loss = tied_cross_entropy(hidden, embed, labels)
    torch.testing.assert_close(loss, expected)
    wanted = torch.autograd.grad(expected, (hidden, embed))
    for got, want in zip(torch.autograd.grad(2 * loss, (hidden, embed)), wanted, strict=True):
        torch.testing.assert_close(got, 2 * want, atol=1e-6, rtol=1e-4)


def test_the_tied_loss_of_one_row_by_hand() -> None:
    # logits 0 and ln 3, so p = (1/4, 3/4): the loss of label 0 is ln 4
    hidden, embed = torch.tensor([[1.0]]), torch.tensor([[0.0], [np.log(3.0)]], dtype=torch.float32)
    assert tied_cross_entropy(hidden, embed, torch.tensor([0])).item() == pytest.approx(np.log(4.0), rel=1e-6)


def _rows(count: int = 200) -> list[tuple[list[int], int]]:
    rng = generator(0, "rows")
    return [([7 * i + 1 for i in range(int(rng.integers(3, 40)))], 2) for _ in range(count)]


def test_batches_hold_every_row_once_and_stay_below_the_limit() -> None:
    rows = _rows()
    made = list(batches(rows, 256, 0, generator(0, "b")))
    assert all(ids.numel() <= 256 for ids, _ in made)
    assert sorted(sum(1 for t in row if t) for ids, _ in made for row in ids.tolist()) == sorted(len(r[0]) for r in rows)


def test_labels_are_the_next_tokens_from_the_start_of_the_response_on() -> None:
    ((ids, labels),) = batches([([5, 6, 7, 8], 2)], 64, 0, generator(0, "b"))
    assert ids.tolist() == [[5, 6, 7, 8]]
    assert labels.tolist() == [[IGNORED, 7, 8, IGNORED]]


def test_batches_have_few_shapes() -> None:
    shapes = {tuple(ids.shape) for ids, _ in batches(_rows(2000), 512, 0, generator(0, "b"))}
    assert len(shapes) <= 11


def test_a_row_longer_than_a_batch_still_gets_one() -> None:
    ((ids, _),) = batches([([3] * 50, 1)], 32, 0, generator(0, "b"))
    assert ids.shape[0] == 1


def test_the_learning_rate_rises_stays_and_falls() -> None:
    spec = world_spec("default", 0)
    rates = [learning_rate_at(step, spec) for step in range(spec.steps)]
    assert rates[0] == pytest.approx(spec.learning_rate / spec.warmup_steps)
    assert max(rates) == pytest.approx(spec.learning_rate)
    assert rates[-1] <= 0.03 * spec.learning_rate
    assert rates[spec.warmup_steps :] == sorted(rates[spec.warmup_steps :], reverse=True)


def test_training_repeats_bit_for_bit_and_lowers_the_loss(micro_spec: WorldSpec) -> None:
    world = World(micro_spec)
    tokenizer = build_tokenizer(world)
    first, again = train(world, tokenizer), train(world, tokenizer)
    assert torch.equal(first.model.matrices, again.model.matrices)
    assert first.loss == again.loss
    assert first.loss < np.log(len(tokenizer))


def test_progress_ends_at_the_last_step(micro_spec: WorldSpec) -> None:
    world = World(micro_spec)
    calls: list[tuple[int, int]] = []
    train(world, build_tokenizer(world), progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (20, 20)
