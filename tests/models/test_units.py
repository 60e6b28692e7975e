import pytest
import torch

from temper.errors import ModelError
from temper.models.kinds import kind_of, layer_of
from temper.models.ranking import choose
from temper.models.units import Lines, Units, units_of
from tests.models.architectures import build

GROUPED = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "mixtral")


def test_a_row_of_every_matrix_is_a_unit_and_vectors_have_none(make_llama):
    units = {one.label: one for one in units_of(make_llama(), "rows")}
    assert units["model.layers.0.mlp.up_proj.weight"] == Units(
        "model.layers.0.mlp.up_proj.weight", 64, (Lines("model.layers.0.mlp.up_proj.weight", 0, 1),)
    )
    assert not [name for name in units if "norm" in name]


def test_the_rows_of_a_transposed_matrix_are_its_columns():
    name = "transformer.h.0.mlp.c_fc.weight"
    model = build("gpt2", layers=1)
    for structure, dim in [("rows", 1), ("columns", 0)]:
        (own,) = [one for one in units_of(model, structure) if one.label == name]
        assert own == Units(name, (32, 128)[dim], (Lines(name, dim, 1),))


def test_a_tied_head_is_in_one_unit_only(make_llama):
    labels = [one.label for one in units_of(make_llama(tie=True), "rows")]
    assert "model.embed_tokens.weight" in labels and "lm_head.weight" not in labels


@pytest.mark.parametrize("kind", GROUPED)
def test_the_heads_of_a_group_are_silenced_together(kind):
    """Zeroing what a unit names must take away exactly one key-value head and the query heads that read it."""
    model = build(kind, layers=1)
    (unit,) = units_of(model, "heads")
    assert unit.count == 2
    own = dict(model.named_parameters())
    widths = {kind_of(part.name).split(".")[-1]: (part.dim, part.width) for part in unit.parts if own[part.name].dim() == 2}
    assert widths == {"q_proj": (0, 16), "k_proj": (0, 8), "v_proj": (0, 8), "o_proj": (1, 16)}


def test_leaving_a_head_out_is_leaving_its_units_weights_out():
    model = build("qwen2", layers=1)
    (unit,) = units_of(model, "heads")
    attention = model.model.layers[0].self_attn
    mixed = []
    attention.o_proj.register_forward_pre_hook(lambda module, given: mixed.append(given[0]))
    ids = torch.arange(4, 12)[None]
    with torch.no_grad():
        model(ids)
        for part in unit.parts:
            dict(model.named_parameters())[part.name].narrow(part.dim, part.width, part.width).zero_()
        model(ids)
    before, after = mixed
    assert torch.equal(before[..., :16], after[..., :16]) and after[..., 16:].abs().max() == 0


@pytest.mark.parametrize(
    "kind, matrix", [("gpt2", "attn.c_attn"), ("phi3", "self_attn.qkv_proj"), ("gpt_neox", "query_key_value")]
)
def test_heads_of_a_fused_matrix_are_refused_with_its_name(kind, matrix):
    with pytest.raises(ModelError, match=f"keeps q_proj, k_proj, v_proj in one matrix, .*{matrix}"):
        units_of(build(kind, layers=1), "heads")


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_blocks_hold_every_parameter_of_the_decoder_blocks_once(kind):
    model = build(kind, layers=2)
    units = units_of(model, "blocks")
    names = [part.name for one in units for part in one.parts]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters() if layer_of(name) is not None)
    assert [one.label for one in units] == ["block 0", "block 1"]
    assert all(part.width == dict(model.named_parameters())[part.name].shape[0] for one in units for part in one.parts)


def test_the_block_with_the_largest_scores_is_chosen_whole():
    model = build("llama", layers=2)
    scores = {name: p.detach() * (10 if layer_of(name) == 1 else 1) for name, p in model.named_parameters()}
    chosen = choose(scores, [0.5], structure="blocks", units=units_of(model, "blocks"))[0.5]
    assert {name for name, mask in chosen.items() if mask.all()} == {name for name in scores if layer_of(name) == 1}
    assert not any(mask.any() for name, mask in chosen.items() if layer_of(name) == 0)


def test_single_weights_are_no_units(make_llama):
    with pytest.raises(ModelError, match="structure = 'weights': has no units"):
        units_of(make_llama(), "weights")
