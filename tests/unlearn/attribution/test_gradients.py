"""Mean gradients, block by block: the numbers of one plain backward pass, whatever the batches and whatever waits on disk."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from temper.data import Item
from temper.errors import ModelError, RunError
from temper.unlearn.attribution import gradients, waiting
from temper.unlearn.attribution.gradients import mean_gradients

VOCABULARY = 64


def rows(count=7, seed=0, longest=18):
    draw = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        length = int(torch.randint(4, longest, (1,), generator=draw))
        ids = torch.randint(1, VOCABULARY, (length,), generator=draw).tolist()
        found.append(Item(str(number), tuple(ids), (*[-100] * (length // 2), *ids[length // 2 :]), {}, "", ""))
    return found


def plain(model, items, average="tokens"):
    """Return the mean gradient by one backward pass a row of the usual logits."""
    total = sum(label != -100 for item in items for label in item.labels[1:])
    for item in items:
        log_probs = model(input_ids=torch.tensor([item.input_ids])).logits[0, :-1].log_softmax(-1)
        labels = torch.tensor(item.labels[1:])
        nll = -log_probs[labels != -100].gather(1, labels[labels != -100][:, None]).sum()
        share = total if average == "tokens" else int((labels != -100).sum()) * len(items)
        (nll / share).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return found


def relative(found, expected):
    return max(float((found[name] - expected[name]).norm() / expected[name].norm().clamp_min(1e-12)) for name in expected)


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("average", ["tokens", "rows"])
def test_block_by_block_is_one_plain_backward_pass(make_llama, tmp_path, tie, recompute, average):
    model, items = make_llama(layers=3, tie=tie), rows()
    expected = plain(model, items, average)
    found = mean_gradients(
        model, items, set(expected), tmp_path / "g.safetensors", pad_id=0, recompute=recompute, average=average, batch_tokens=40
    )
    assert relative(found, expected) < 1e-5


def test_batches_of_one_and_of_eight_give_the_same_and_padding_counts_for_nothing(make_llama, tmp_path):
    model, items = make_llama(), rows(8)
    names = [name for name, _ in model.named_parameters()]
    one = mean_gradients(model, items, names, tmp_path / "1.safetensors", pad_id=0, batch_tokens=1)
    eight = mean_gradients(model, items, names, tmp_path / "8.safetensors", pad_id=0, batch_tokens=10**6)
    other = mean_gradients(model, items, names, tmp_path / "p.safetensors", pad_id=9, batch_tokens=10**6)
    assert relative(eight, one) < 1e-5
    assert all(torch.equal(eight[name], other[name]) for name in names)


@pytest.mark.parametrize("recompute", [False, True])
def test_what_waits_on_disk_and_how_often_it_is_emptied_change_nothing(make_llama, tmp_path, monkeypatch, recompute):
    model, items = make_llama(layers=3), rows(9)
    names = [name for name, _ in model.named_parameters()]
    known = {"pad_id": 0, "batch_tokens": 40, "recompute": recompute}
    in_memory = mean_gradients(model, items, names, tmp_path / "m.safetensors", **known)
    monkeypatch.setattr(waiting, "KEPT", 0)
    on_disk = mean_gradients(model, items, names, tmp_path / "d.safetensors", **known)
    emptied = mean_gradients(model, items, names, tmp_path / "e.safetensors", **known, spill_limit=1)
    assert all(torch.equal(on_disk[name], in_memory[name]) for name in names)
    assert relative(emptied, in_memory) < 1e-6


def test_what_waits_stays_within_its_limit(make_llama, tmp_path, monkeypatch):
    monkeypatch.setattr(waiting, "KEPT", 0)
    sizes = []
    inner = waiting.Spill.pack
    monkeypatch.setattr(waiting.Spill, "pack", lambda self, tensor: (inner(self, tensor), sizes.append(self.size))[0])

    def largest(**limit):
        sizes.clear()
        mean_gradients(
            make_llama(), rows(9), ["lm_head.weight"], tmp_path / f"{len(limit)}.safetensors", pad_id=0, batch_tokens=1, **limit
        )
        return max(sizes)

    whole = largest()
    assert largest(spill_limit=whole // 4) < whole / 2


def test_only_what_is_asked_for_is_computed_and_the_model_is_left_as_it_was(make_llama, tmp_path):
    model, items = make_llama(layers=3), rows()
    model.train()
    model.model.embed_tokens.weight.requires_grad_(False)
    expected = plain(make_llama(layers=3), items)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    wanted = ["model.layers.1.mlp.up_proj.weight", "model.layers.2.input_layernorm.weight"]
    found = mean_gradients(model, items, wanted, tmp_path / "g.safetensors", pad_id=0)
    assert sorted(found) == sorted(wanted)
    assert relative(found, {name: expected[name] for name in wanted}) < 1e-5
    assert model.training and not model.model.embed_tokens.weight.requires_grad
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_the_file_holds_bfloat16_where_asked_and_sums_are_float32(make_llama, tmp_path):
    model, items = make_llama(), rows()
    names = [name for name, _ in model.named_parameters()]
    wide = mean_gradients(model, items, names, tmp_path / "w.safetensors", pad_id=0)
    held = mean_gradients(model, items, names, tmp_path / "h.safetensors", pad_id=0, dtype=torch.bfloat16)
    assert all(torch.equal(held[name], wide[name].bfloat16()) for name in names)


def test_gradients_of_a_half_precision_model_are_added_up_in_float32(make_llama, tmp_path):
    model, items = make_llama().bfloat16(), rows(12)
    names = [name for name, _ in model.named_parameters()]
    found = mean_gradients(model, items, names, tmp_path / "g.safetensors", pad_id=0, batch_tokens=1)
    expected = plain(make_llama().bfloat16().float(), items)
    assert relative(found, expected) < 0.03
    # sums in bfloat16 would be bfloat16 numbers; each row's share is one, their sum hardly ever
    finer = [found[name] != found[name].bfloat16().float() for name in names]
    assert sum(int(where.sum()) for where in finer) > 0.5 * sum(where.numel() for where in finer)


def test_a_learned_position_table_gets_its_gradient_too(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=2, n_head=2)).eval()
    items = rows()
    expected = plain(model, items)
    found = mean_gradients(model, items, set(expected), tmp_path / "g.safetensors", pad_id=0)
    assert "transformer.wpe.weight" in found and relative(found, expected) < 1e-5


def test_a_parameter_that_no_row_reaches_has_zeros(make_llama, tmp_path):
    model = make_llama()
    model.register_parameter("spare", torch.nn.Parameter(torch.ones(3)))
    found = mean_gradients(model, rows(2), ["spare"], tmp_path / "g.safetensors", pad_id=0)
    assert found["spare"].tolist() == [0, 0, 0]


def test_a_gradient_that_is_not_finite_names_its_tensor_and_leaves_the_model_clean(make_llama, tmp_path):
    model = make_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(RunError, match="gradient of .* is infinite or NaN"):
        mean_gradients(model, rows(2), [name for name, _ in model.named_parameters()], tmp_path / "g.safetensors", pad_id=0)
    assert all(p.grad is None for p in model.parameters())
    assert not (tmp_path / "g.safetensors").exists()


def test_a_block_that_reads_more_than_the_one_before_is_refused(make_llama, tmp_path):
    model = make_llama()
    first = model.model.layers[0]
    inner, extra = first.forward, torch.nn.Parameter(torch.ones(()))
    model.register_parameter("extra", extra)
    first.forward = lambda hidden_states, factor=None, **kwargs: inner(hidden_states * factor, **kwargs)
    first.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {**kwargs, "factor": extra * 1}), with_kwargs=True, prepend=True
    )
    with pytest.raises(ModelError, match="block 0 .* reads more than the output of the block before"):
        mean_gradients(model, rows(2), ["extra"], tmp_path / "g.safetensors", pad_id=0)


def test_progress_counts_rows(make_llama, tmp_path):
    told = []
    mean_gradients(
        make_llama(),
        rows(5),
        ["lm_head.weight"],
        tmp_path / "g.safetensors",
        pad_id=0,
        batch_tokens=1,
        progress=lambda *seen: told.append(seen),
    )
    assert told == [(number, 5) for number in range(1, 6)]
    assert gradients.BATCH_TOKENS > 0
