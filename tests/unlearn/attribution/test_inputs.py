"""How large the inputs of linear layers are: over tokens that count, in any layout."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

from temper.errors import ModelError
from temper.unlearn.attribution.inputs import input_norms, linear_weights
from tests.unlearn.attribution.test_gradients import VOCABULARY, rows


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


def by_hand(model, items, name):
    """Return ‖X_j‖ of one layer from rows that run alone, without padding."""
    seen = []
    handle = linear_weights(model)[name].register_forward_pre_hook(
        lambda module, args: seen.append(args[0].reshape(-1, args[0].shape[-1]))
    )
    with torch.no_grad():
        for item in items:
            model(input_ids=torch.tensor([item.input_ids]))
    handle.remove()
    return torch.cat(seen).double().square().sum(0).sqrt().float()


@pytest.mark.parametrize(
    ("make", "name", "dim"),
    [
        (None, "model.layers.1.mlp.down_proj.weight", 0),
        (
            lambda: GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=2, n_head=2)),
            "transformer.h.0.mlp.c_fc.weight",
            1,
        ),
        (
            lambda: OPTForCausalLM(
                OPTConfig(
                    vocab_size=VOCABULARY,
                    hidden_size=16,
                    word_embed_proj_dim=16,
                    ffn_dim=32,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    max_position_embeddings=64,
                )
            ),
            "model.decoder.layers.1.fc2.weight",
            0,
        ),
    ],
)
def test_norms_count_every_token_once_and_no_padding(make_llama, make, name, dim):
    model, items = make_llama() if make is None else seeded(make), rows(6)
    found = input_norms(model, items, [name], pad_id=0)[name]
    assert found.shape[dim] == 1
    assert torch.allclose(found.flatten(), by_hand(model, items, name), rtol=1e-5)


def test_a_layer_that_only_some_tokens_reach_is_refused_by_name():
    config = Qwen2MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_experts=2,
        num_experts_per_tok=1,
    )
    model = seeded(lambda: Qwen2MoeForCausalLM(config))
    experts = [name for name in linear_weights(model) if ".experts." in name]
    layers = list(linear_weights(model))
    if experts:  # routed one by one
        with pytest.raises(ModelError, match=r"experts.*reads .* tokens of .*Exclude it"):
            input_norms(model, rows(3), layers, pad_id=0)
    else:  # stacked experts are no linear layers; the shared one sees every token
        assert set(input_norms(model, rows(3), layers, pad_id=0)) == set(layers)
