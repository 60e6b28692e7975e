import itertools

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, PretrainedConfig

from temper.errors import ModelError
from temper.models.lora import SelectLora
from temper.models.masks import save_masks
from temper.models.selection import (
    SelectAll,
    SelectLayers,
    SelectMaskFile,
    SelectModules,
    SelectPattern,
    SelectRows,
)


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


def gradients_of(model, scale=None):
    """Gradients that are ones, times a factor a parameter."""
    return lambda: (
        (name, torch.full_like(p, (scale or {}).get(name, 1.0))) for name, p in model.named_parameters() if p.requires_grad
    )


def no_gradients():
    raise AssertionError("this selection reads no gradients")


class TwoTowers(nn.Module):
    """A model whose second tower has blocks with the same names."""

    def __init__(self):
        super().__init__()
        self.vision = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(2, 2) for _ in range(3))})
        self.model = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(2, 2) for _ in range(3))})
        self.model.layers = self.model["layers"]
        self.config = PretrainedConfig(num_hidden_layers=3)


def test_layers_are_those_of_the_decoder_and_of_no_other_tower():
    names = trained(SelectLayers(layers=[0, -1]).apply(TwoTowers()))
    assert names == ["model.layers.0.weight", "model.layers.0.bias", "model.layers.2.weight", "model.layers.2.bias"]


def test_the_module_of_layers_may_be_an_alias(make_llama):
    names = trained(SelectLayers(layers=[1], module="down_proj").apply(make_llama()))
    assert names == ["model.layers.1.mlp.down_proj.weight"]


def test_a_module_that_the_layers_lack_is_refused(make_llama):
    with pytest.raises(ModelError, match="matches no parameter of LlamaForCausalLM"):
        SelectLayers(layers=[0], module="mlp.c_proj").apply(make_llama())


def test_a_selection_without_masks_returns_none(make_llama):
    model = SelectAll().apply(make_llama())
    assert SelectAll().masks(model, no_gradients) == {}


def test_a_selection_that_matches_nothing_leaves_the_model_as_it_was(make_llama):
    model = make_llama()
    with pytest.raises(ModelError):
        SelectPattern(pattern="nothing").apply(model)
    assert all(p.requires_grad for p in model.parameters())


def test_modules_are_selected_by_alias(make_llama):
    names = trained(SelectModules(modules=["q_proj", "v_proj"]).apply(make_llama()))
    assert names == [f"model.layers.{i}.self_attn.{p}_proj.weight" for i in (0, 1) for p in "qv"]


def test_modules_may_be_limited_to_layers(make_llama):
    names = trained(SelectModules(modules=["down_proj"], layers=[-1]).apply(make_llama(layers=3)))
    assert names == ["model.layers.2.mlp.down_proj.weight"]


def test_an_alias_that_does_not_exist_is_refused(make_llama):
    with pytest.raises(ModelError, match="no such alias"):
        SelectModules(modules=["down_projection"]).apply(make_llama())


def test_modules_in_a_layer_out_of_range_are_refused(make_llama):
    with pytest.raises(ModelError, match=r"selection.layers = \[9\], but the model has 2 layers"):
        SelectModules(modules=["mlp"], layers=[9]).apply(make_llama())


def test_rows_train_matrices_with_the_largest_gradients_and_freeze_the_rest(make_llama):
    model = SelectRows(percentile=99).apply(make_llama())
    assert all(p.dim() == 2 for p in model.parameters() if p.requires_grad)
    favourite = "model.layers.1.self_attn.o_proj.weight"
    masks = SelectRows(percentile=99).masks(model, gradients_of(model, {favourite: 5.0}))
    assert list(masks) == trained(model) == [favourite]
    rows = sum(p.shape[0] for p in model.parameters() if p.dim() == 2)
    assert int(masks[favourite][:, 0].sum()) == -(-rows // 100)


def test_rows_may_be_limited_to_a_pattern(make_llama):
    selection = SelectRows(percentile=50, pattern="down_proj", scope="tensor")
    model = selection.apply(make_llama())
    masks = selection.masks(model, gradients_of(model))
    assert sorted(masks) == [f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)]
    assert all(mask[:, 0].sum() == 16 for mask in masks.values())


def test_a_matrix_without_a_gradient_is_frozen(make_llama):
    selection = SelectRows(percentile=0, pattern="down_proj")
    model = selection.apply(make_llama())
    masks = selection.masks(model, lambda: itertools.islice(gradients_of(model)(), 1))
    assert list(masks) == trained(model) == ["model.layers.0.mlp.down_proj.weight"]


def test_the_rows_of_gpt2_are_the_columns_of_its_weights():
    selection = SelectRows(percentile=50, pattern=r"mlp\.c_fc\.weight")
    model = selection.apply(GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2)))
    ((_, mask),) = selection.masks(model, gradients_of(model)).items()
    assert mask.shape == (8, 32) and mask[0].sum() == 16 and (mask == mask[:1]).all()


def test_rows_without_any_gradient_are_refused(make_llama):
    selection = SelectRows()
    model = selection.apply(make_llama())
    zero = dict.fromkeys(trained(model), 0.0)
    with pytest.raises(ModelError, match="no row of the selected matrices has a gradient"):
        selection.masks(model, gradients_of(model, zero))


def test_a_pattern_of_rows_that_matches_nothing_is_refused(make_llama):
    with pytest.raises(ModelError, match="selection rows .* matches no parameter"):
        SelectRows(pattern="layernorm").apply(make_llama())


def test_a_mask_file_selects_its_entries_and_freezes_what_it_does_not_name(make_llama, tmp_path):
    model = make_llama()
    name, empty = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"
    mask = torch.zeros(64, 32, dtype=torch.bool)
    mask[3, 5] = True
    save_masks(tmp_path / "mask", {name: mask, empty: torch.zeros(32, 64, dtype=torch.bool)}, model)
    selection = SelectMaskFile(path=str(tmp_path / "mask"))
    model = selection.apply(model)
    masks = selection.masks(model, no_gradients)
    assert trained(model) == list(masks) == [name]
    assert torch.equal(masks[name], mask)


def test_a_mask_file_of_another_model_is_refused(make_llama, tmp_path):
    save_masks(tmp_path / "mask", {}, make_llama(width=16))
    with pytest.raises(ModelError, match="was made for another model: model.embed_tokens.weight has the shape"):
        SelectMaskFile(path=str(tmp_path / "mask")).apply(make_llama())


def test_a_mask_file_that_selects_nothing_is_refused(make_llama, tmp_path):
    model = make_llama()
    save_masks(tmp_path / "mask", {}, model)
    with pytest.raises(ModelError, match="selection mask .* matches no parameter"):
        SelectMaskFile(path=str(tmp_path / "mask")).apply(model)


@pytest.mark.parametrize("build", [lambda: SelectPattern(pattern="("), lambda: SelectRows(pattern="(")])
def test_a_pattern_that_is_not_a_regular_expression_is_refused(build):
    with pytest.raises(ValueError, match="is not a regular expression"):
        build()
