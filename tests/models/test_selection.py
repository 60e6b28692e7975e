import pytest
import torch

from temper.errors import ModelError
from temper.models.selection import SelectAll, SelectLayers, SelectLora, SelectPattern


def trained(model):
    return [name for name, p in model.named_parameters() if p.requires_grad]


def test_all_selects_every_parameter(make_llama):
    model = make_llama()
    assert trained(SelectAll().apply(model)) == [name for name, _ in model.named_parameters()]


def test_layers_select_whole_blocks(make_llama):
    names = trained(SelectLayers(layers=[1]).apply(make_llama(layers=3)))
    assert names and all(name.startswith("model.layers.1.") for name in names)


def test_a_negative_layer_is_the_last_one(make_llama):
    names = trained(SelectLayers(layers=[-1], module="mlp.down_proj").apply(make_llama(layers=3)))
    assert names == ["model.layers.2.mlp.down_proj.weight"]


def test_a_layer_out_of_range_is_refused(make_llama):
    with pytest.raises(ModelError, match=r"selection.layers = \[7\], but the model has 2 layers"):
        SelectLayers(layers=[7]).apply(make_llama())


def test_a_pattern_selects_by_name(make_llama):
    names = trained(SelectPattern(pattern=r"layers\.0\..*q_proj").apply(make_llama()))
    assert names == ["model.layers.0.self_attn.q_proj.weight"]


def test_a_pattern_that_matches_nothing_is_refused_with_examples(make_llama):
    with pytest.raises(ModelError, match="matches no parameter of LlamaForCausalLM"):
        SelectPattern(pattern="down_projection").apply(make_llama())


def test_an_adapter_starts_without_effect_and_freezes_the_model(make_llama):
    model = make_llama()
    ids = torch.tensor([[1, 5, 6]])
    before = model(input_ids=ids).logits
    wrapped = SelectLora(rank=2).apply(model)
    wrapped.eval()
    assert torch.equal(wrapped(input_ids=ids).logits, before)
    assert all("lora_" in name for name in trained(wrapped))


def test_an_adapter_target_that_does_not_exist_is_refused(make_llama):
    with pytest.raises(ModelError, match="selection.lora.target"):
        SelectLora(target=["no_such_module"]).apply(make_llama())


def test_an_adapter_on_a_shared_embedding_is_refused(make_llama):
    with pytest.raises(ModelError, match="puts an adapter on an embedding that input and output share"):
        SelectLora(target=["lm_head"]).apply(make_llama(tie=True))
