import re

import pytest

from temper.errors import ModelError
from temper.models.aliases import ALIASES, architectures, module_pattern
from tests.models.architectures import KINDS, build

DOWN = {
    "gpt2": "transformer.h.{}.mlp.c_proj.weight",
    "gpt_neox": "gpt_neox.layers.{}.mlp.dense_4h_to_h.weight",
    "mixtral": "model.layers.{}.mlp.experts.down_proj",
}


def _found(alias, model):
    pattern = module_pattern(alias, model)
    return [name for name, _ in model.named_parameters() if re.search(pattern, name)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_down_projection_of_each_block_is_found_by_its_alias(kind):
    found = [name for name in _found("down_proj", build(kind, layers=2)) if not name.endswith(".bias")]
    expected = DOWN.get(kind, "model.layers.{}.mlp.down_proj.weight")
    assert found == [expected.format(0), expected.format(1)]


@pytest.mark.parametrize("kind", KINDS)
def test_mlp_attention_norms_embedding_and_head_cover_every_parameter_but_positions(kind):
    model = build(kind, layers=2, tie=False)
    covered = {name for alias in ("mlp", "attention", "norms", "embedding", "head") for name in _found(alias, model)}
    rest = {name for name, _ in model.named_parameters()} - covered
    assert rest == ({"transformer.wpe.weight"} if kind == "gpt2" else set())


@pytest.mark.parametrize("kind", KINDS)
def test_every_alias_finds_something_or_says_why_not(kind):
    model = build(kind, layers=1, tie=False)
    for alias in ALIASES:
        try:
            assert _found(alias, model)
        except ModelError as error:
            assert "in one matrix" in str(error) or "has none" in str(error)


def test_the_norms_of_queries_and_keys_are_norms():
    assert "model.layers.0.self_attn.q_norm.weight" in _found("norms", build("qwen3", layers=1))


def test_the_output_projection_of_gpt2_is_not_its_down_projection():
    assert _found("o_proj", build("gpt2", layers=1)) == ["transformer.h.0.attn.c_proj.weight", "transformer.h.0.attn.c_proj.bias"]


@pytest.mark.parametrize(
    ("kind", "alias", "fused"),
    [
        ("phi3", "q_proj", "self_attn.qkv_proj"),
        ("phi3", "up_proj", "mlp.gate_up_proj"),
        ("gpt2", "v_proj", "attn.c_attn"),
        ("gpt_neox", "k_proj", "attention.query_key_value"),
        ("mixtral", "gate_proj", "mlp.experts.gate_up_proj"),
    ],
)
def test_a_part_of_a_fused_matrix_is_refused_with_the_name_of_the_matrix(kind, alias, fused):
    with pytest.raises(ModelError, match=f"in one matrix, {re.escape(fused)}"):
        module_pattern(alias, build(kind, layers=1))


@pytest.mark.parametrize("kind", ["phi3", "gpt2", "gpt_neox", "mixtral"])
def test_the_pattern_offered_for_a_fused_matrix_finds_it(kind):
    model = build(kind, layers=1)
    with pytest.raises(ModelError) as caught:
        module_pattern("q_proj" if kind != "mixtral" else "up_proj", model)
    offered = re.search(r"give the pattern '(.+)'", str(caught.value)).group(1).replace("\\\\", "\\")
    assert any(re.search(offered, name) for name, _ in model.named_parameters())


def test_a_gate_is_refused_where_there_is_none():
    with pytest.raises(ModelError, match="gpt2 has none"):
        module_pattern("gate_proj", build("gpt2", layers=1))


def test_a_mistaken_alias_is_answered_with_the_nearest():
    with pytest.raises(ModelError, match=r"no such alias \(did you mean 'down_proj'\?\)"):
        module_pattern("down_porj", build("llama", layers=1))


def test_an_unknown_architecture_is_answered_with_the_known_ones_and_patterns():
    from transformers import OPTConfig, OPTForCausalLM

    tiny = OPTConfig(
        vocab_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16, word_embed_proj_dim=16
    )
    with pytest.raises(ModelError, match=r"names of 'opt' models are not known.*gpt_neox, llama.*Give a pattern"):
        module_pattern("down_proj", OPTForCausalLM(tiny))


def test_a_head_shared_with_the_embedding_is_answered_with_the_embedding():
    with pytest.raises(ModelError, match="Use 'embedding', which changes both"):
        module_pattern("head", build("llama", layers=1, tie=True))


def test_the_names_known_are_those_the_tests_build():
    assert architectures() == sorted(KINDS)


def test_an_adapter_on_the_modules_is_found_too():
    from temper.models.lora import SelectLora

    wrapped = SelectLora(rank=2, target=["down_proj"]).apply(build("llama", layers=1))
    assert any("lora_A" in name for name in _found("down_proj", wrapped))
