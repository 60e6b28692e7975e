import pytest
import torch

from temper.errors import ModelError
from temper.models.lora import SelectLora
from temper.models.selection import SelectLayers, decoder_layers
from temper.models.trunk import FrozenBranch, capture_hidden, check_layer, freeze_above, run_trunk

IDS = torch.tensor([[1, 5, 6, 7, 8], [1, 9, 10, 2, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_trunk_gives_the_hidden_states_of_the_full_pass(make_llama, attention):
    model = make_llama(layers=6)
    model.set_attn_implementation(attention)
    hidden, _ = run_trunk(model, 3, IDS, MASK)
    full = model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True).hidden_states[4]
    assert torch.equal(hidden, full)


def frozen(branch, ids, mask, entries, rows):
    """The hidden states of the block that the branch was made for."""
    return branch.hidden(ids, mask, entries, rows, frozenset({branch._layer}))[branch._layer]


def test_left_padding_gives_the_same_hidden_states_in_the_trunk(make_llama):
    model = make_llama(layers=4)
    left = torch.tensor([[0, 1, 9, 10, 2]])
    mask = torch.tensor([[0, 1, 1, 1, 1]])
    hidden, _ = run_trunk(model, 2, left, mask)
    full = model(input_ids=left, attention_mask=mask, output_hidden_states=True).hidden_states[3]
    assert torch.equal(hidden, full)


def test_no_block_above_the_layer_runs(make_llama):
    model = make_llama(layers=6)
    ran = []
    for index, block in enumerate(model.model.layers):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    run_trunk(model, 2, IDS, MASK)
    assert ran == [0, 1, 2]


def test_the_hooks_are_gone_after_a_pass(make_llama):
    model = make_llama()
    run_trunk(model, 0, IDS, MASK, entry_of=0)
    assert model(input_ids=IDS).logits.shape == (2, 5, 64)


def test_a_layer_out_of_range_is_named_with_the_range(make_llama):
    with pytest.raises(ModelError, match=r"method.layer = 40, but LlamaForCausalLM has 2 layers \(0 to 1\)"):
        check_layer(make_llama(), 40, "method.layer")


def test_a_negative_layer_counts_from_the_end(make_llama):
    assert check_layer(make_llama(layers=4), -1, "layer") == 3


def _moved(model):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)


@pytest.mark.parametrize("trained", [[0], [1, 2], [2]])
def test_the_frozen_branch_gives_the_hidden_states_from_before_training(make_llama, trained):
    model = SelectLayers(layers=trained).apply(make_llama(layers=5))
    before, _ = run_trunk(model, 2, IDS, MASK)
    branch = FrozenBranch(model, 2)
    _moved(model)
    moved, entry = run_trunk(model, 2, IDS, MASK, entry_of=branch.first)
    assert not torch.allclose(moved, before, atol=1e-3)
    assert torch.equal(frozen(branch, IDS, MASK, entry, slice(0, 2)), before)


def test_what_the_block_cannot_depend_on_is_frozen(make_llama):
    model = make_llama(layers=3)
    freeze_above(model, 1)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all(name.startswith(("model.embed_tokens", "model.layers.0.", "model.layers.1.")) for name in trained)


def test_a_head_that_is_the_embedding_stays_trainable(make_llama):
    model = make_llama(layers=2, tie=True)
    freeze_above(model, 0)
    assert model.model.embed_tokens.weight.requires_grad and not model.model.norm.weight.requires_grad


def test_the_frozen_branch_gives_single_rows_of_a_shared_batch(make_llama):
    model = SelectLayers(layers=[1]).apply(make_llama(layers=3))
    before, _ = run_trunk(model, 1, IDS, MASK)
    branch = FrozenBranch(model, 1)
    _moved(model)
    _, entry = run_trunk(model, 1, IDS, MASK, entry_of=branch.first)
    torch.testing.assert_close(frozen(branch, IDS, MASK, entry, slice(1, 2)), before[1:], rtol=1e-6, atol=1e-6)


def test_the_frozen_branch_works_when_the_embedding_trains(make_llama):
    model = make_llama(layers=3, tie=True)
    before, _ = run_trunk(model, 1, IDS, MASK)
    branch = FrozenBranch(model, 1)
    _moved(model)
    assert torch.equal(frozen(branch, IDS, MASK, {}, slice(0, 2)), before)


def test_the_frozen_branch_leaves_the_trained_weights_in_place(make_llama):
    model = SelectLayers(layers=[1]).apply(make_llama(layers=3))
    branch = FrozenBranch(model, 1)
    _moved(model)
    moved = {name: p.clone() for name, p in model.named_parameters()}
    _, entry = run_trunk(model, 1, IDS, MASK, entry_of=branch.first)
    frozen(branch, IDS, MASK, entry, slice(0, 1))
    assert all(torch.equal(p, moved[name]) for name, p in model.named_parameters())


def test_the_frozen_branch_keeps_copies_of_trained_tensors_only(make_llama):
    model = SelectLayers(layers=[1], module="mlp.down_proj").apply(make_llama(layers=3))
    assert FrozenBranch(model, 1).original.stored_bytes == 32 * 64 * 4


def test_the_lower_part_is_run_once_and_without_a_graph(make_llama):
    model = SelectLayers(layers=[2]).apply(make_llama(layers=4))
    branch = FrozenBranch(model, 2)
    passes = []
    for index, block in enumerate(model.model.layers):
        block.register_forward_hook(lambda *_, index=index: passes.append(index))
    hidden, entry = run_trunk(model, 2, IDS, MASK, entry_of=branch.first)
    frozen(branch, IDS, MASK, entry, slice(0, 1))
    assert passes == [0, 1, 2, 2]
    assert hidden.requires_grad
    assert not entry[2].hidden_BLD.requires_grad


def _random(kind, config, **settings):
    import transformers

    made = getattr(transformers, config)(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=128, pad_token_id=0, **settings,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, kind)(made).eval()


@pytest.mark.parametrize(
    ("kind", "config", "settings"),
    [
        ("Gemma2ForCausalLM", "Gemma2Config", {"head_dim": 16, "sliding_window": 3}),
        ("Gemma3ForCausalLM", "Gemma3TextConfig", {"head_dim": 16, "sliding_window": 3}),
        ("Qwen2ForCausalLM", "Qwen2Config", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 2}),
        ("MistralForCausalLM", "MistralConfig", {"sliding_window": 3}),
        ("Phi3ForCausalLM", "Phi3Config", {}),
    ],
)
def test_the_frozen_branch_is_exact_where_blocks_have_masks_or_positions_of_their_own(kind, config, settings):
    model = SelectLayers(layers=[1, 2]).apply(_random(kind, config, **settings))
    ids = torch.tensor([[1, 5, 6, 7, 8, 9, 10, 11], [1, 9, 10, 12, 13, 2, 0, 0]])
    mask = (ids != 0).long()
    before, _ = run_trunk(model, 2, ids, mask)
    branch = FrozenBranch(model, 2)
    _moved(model)
    _, entries = run_trunk(model, 2, ids, mask, entry_of=branch.first)
    assert branch.first == 1
    torch.testing.assert_close(frozen(branch, ids, mask, entries, slice(0, 2)), before)


def test_the_frozen_branch_shares_nothing_where_positions_train():
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=32, n_embd=16, n_layer=3, n_head=2, n_positions=32, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0
            )
        ).eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("wpe" in name or "h.1." in name)
    before, _ = run_trunk(model, 2, IDS, MASK)
    branch = FrozenBranch(model, 2)
    with torch.no_grad():
        model.transformer.wpe.weight.add_(0.3)
    _, entries = run_trunk(model, 2, IDS, MASK, entry_of=branch.first)
    torch.testing.assert_close(frozen(branch, IDS, MASK, entries, slice(0, 2)), before)


def test_the_frozen_branch_of_a_model_with_dropout_has_none(make_llama):
    model = make_llama(layers=3)
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    model = SelectLayers(layers=[1]).apply(model)
    before, _ = run_trunk(model, 1, IDS, MASK)
    branch = FrozenBranch(model, 1)
    model.train()
    _, entries = run_trunk(model, 1, IDS, MASK, entry_of=branch.first)
    assert torch.equal(frozen(branch, IDS, MASK, entries, slice(0, 2)), before)
    assert model.training


def test_captured_hidden_states_come_from_the_same_pass(make_llama):
    model = make_llama(layers=3)
    with capture_hidden(model, frozenset({0, 2})) as found:
        model(input_ids=IDS, attention_mask=MASK)
    assert sorted(found) == [0, 2]
    assert torch.equal(found[0], run_trunk(model, 0, IDS, MASK)[0])


RIGHT = (torch.tensor([[1, 5, 6, 7, 8], [1, 9, 10, 2, 0]]), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]))
LEFT = (torch.tensor([[1, 5, 6, 7, 8], [0, 1, 9, 10, 2]]), torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]))


def _hooked(model, layer, ids, mask):
    """Return what a hook sees behind a block in a full pass."""
    seen = []
    handle = decoder_layers(model)[layer].register_forward_hook(lambda module, args, output: seen.append(output))
    model(input_ids=ids, attention_mask=mask)
    handle.remove()
    return seen[0] if isinstance(seen[0], torch.Tensor) else seen[0][0]


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("padding", [RIGHT, LEFT], ids=["right", "left"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "adapter"])
def test_every_block_of_the_trunk_is_that_of_a_full_pass_to_the_bit(make_llama, attention, padding, wrapped):
    model = make_llama(layers=6)
    model.set_attn_implementation(attention)
    if wrapped:
        model = SelectLora(rank=2, target=["down_proj"]).apply(model).eval()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)  # a fresh adapter adds nothing
    assert torch.get_num_threads() == 1
    states = model(input_ids=padding[0], attention_mask=padding[1], output_hidden_states=True).hidden_states
    for layer in range(6):
        hidden, _ = run_trunk(model, layer, *padding)
        assert torch.equal(hidden, _hooked(model, layer, *padding))
        # the last entry stands behind the final norm
        assert torch.equal(hidden, states[layer + 1]) == (layer < 5)


@torch.no_grad()
def test_with_two_threads_the_trunk_is_that_of_a_full_pass_to_rounding(make_llama):
    model = make_llama(layers=6, width=64)
    ids = torch.arange(3, 51).reshape(2, 24)
    mask = torch.ones_like(ids)
    torch.set_num_threads(2)
    try:
        hidden, _ = run_trunk(model, 3, ids, mask)
        full = _hooked(model, 3, ids, mask)
    finally:
        torch.set_num_threads(1)
    torch.testing.assert_close(hidden, full, rtol=0, atol=2e-6)


@torch.no_grad()
def test_a_model_that_was_dispatched_over_a_device_map_has_the_same_trunk(make_llama):
    from accelerate import dispatch_model

    model = make_llama(layers=6)
    expected, _ = run_trunk(model, 3, *RIGHT)
    placed = dispatch_model(model, device_map={"": "cpu"}, force_hooks=True)
    assert hasattr(placed, "_hf_hook"), "the model runs through the hooks of accelerate"
    assert torch.equal(run_trunk(placed, 3, *RIGHT)[0], expected)
