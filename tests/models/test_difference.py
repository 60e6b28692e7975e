import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from temper.errors import ModelError
from temper.models.difference import Selected, difference
from temper.models.writeback import StoredModel, write_changed
from tests.models.architectures import KINDS, saved

DOWN = "model.layers.0.mlp.down_proj.weight"


def stored(folder):
    return StoredModel(folder, None, None)


def compared(one, other, selected=None):
    return difference(stored(one), stored(other), selected).facts()


def changed_copy(folder, out, name, change):
    """Write a copy with one parameter changed; the original, and its new value."""
    value = change(stored(folder).parameter(name).clone())
    write_changed(folder, {name: value}, out)
    return value


def row(facts, **which):
    (key, value), *_ = which.items()
    return next(each for each in facts[f"{key}s"] if each[key] == value)


def test_a_copy_has_no_difference(tmp_path):
    model = saved("llama", tmp_path / "base", layers=1)
    facts = compared(tmp_path / "base", tmp_path / "base")
    assert (facts["changed"], facts["relative_change"]) == (0, 0.0)
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert "selected" not in facts and "strays" not in facts


def test_the_numbers_of_one_changed_tensor_are_those_worked_out_by_hand(tmp_path):
    model = saved("llama", tmp_path / "base", layers=2)
    before = model.get_parameter(DOWN).detach()
    changed_copy(tmp_path / "base", tmp_path / "out", DOWN, lambda value: value.index_fill_(0, torch.tensor([3, 4]), 2.0))
    facts = compared(tmp_path / "base", tmp_path / "out")
    change = float((2.0 - before[3:5]).double().norm())
    parameters = dict(model.named_parameters())
    assert (
        facts["changed"] == row(facts, layer=0)["changed"] == row(facts, kind="mlp.down_proj")["changed"] == 2 * before.shape[1]
    )
    for found, names in (
        (facts, list(parameters)),
        (row(facts, layer=0), [name for name in parameters if ".layers.0." in name]),
        (row(facts, kind="mlp.down_proj"), [name for name in parameters if "down_proj" in name]),
    ):
        norm = math.sqrt(sum(float(parameters[name].detach().double().norm()) ** 2 for name in names))
        assert found["relative_change"] == pytest.approx(change / norm, rel=1e-5)
        assert found["parameters"] == sum(parameters[name].numel() for name in names)
    assert row(facts, layer=1)["changed"] == row(facts, layer=None)["changed"] == 0


def test_layers_stand_in_order_and_what_lies_outside_of_them_comes_last(tmp_path):
    saved("llama", tmp_path / "base", layers=3)
    facts = compared(tmp_path / "base", tmp_path / "base")
    assert [each["layer"] for each in facts["layers"]] == [0, 1, 2, None]


def test_a_tensor_larger_than_a_piece_is_counted_whole(tmp_path, monkeypatch):
    saved("llama", tmp_path / "base", layers=1)
    mask = torch.zeros(32, 48, dtype=torch.bool)
    mask[::5] = True
    changed_copy(tmp_path / "base", tmp_path / "out", DOWN, lambda value: value + mask)
    whole = compared(tmp_path / "base", tmp_path / "out", Selected({DOWN: mask}))
    monkeypatch.setattr("temper.models.difference._PIECE", 100)
    pieces = compared(tmp_path / "base", tmp_path / "out", Selected({DOWN: mask}))
    assert pieces["changed"] == pieces["moved"] == whole["moved"] == int(mask.sum())
    assert pieces["relative_change"] == pytest.approx(whole["relative_change"], rel=1e-12)


# ---- what was selected ----


def test_it_tells_what_share_of_the_selected_entries_moved_and_that_no_other_did(tmp_path):
    saved("llama", tmp_path / "base", layers=1)
    mask = torch.zeros(32, 48, dtype=torch.bool)
    mask[:4] = True
    changed_copy(
        tmp_path / "base", tmp_path / "out", DOWN, lambda value: value.index_add_(0, torch.tensor([1]), torch.ones(1, 48))
    )
    facts = compared(tmp_path / "base", tmp_path / "out", Selected({DOWN: mask}))
    assert (facts["selected"], facts["moved"], facts["share_moved"]) == (4 * 48, 48, 0.25)
    assert (facts["others_moved"], facts["strays"]) == (0, [])
    assert facts["others"] == facts["parameters"] - 4 * 48


def test_it_names_the_parameters_that_changed_without_being_selected(tmp_path):
    saved("llama", tmp_path / "base", layers=1)
    mask = torch.ones(32, 48, dtype=torch.bool)
    mask[0, 0] = False
    changed_copy(tmp_path / "base", tmp_path / "out", DOWN, lambda value: value + 1)
    facts = compared(tmp_path / "base", tmp_path / "out", Selected({DOWN: mask}))
    assert (facts["others_moved"], facts["strays"]) == (1, [DOWN])
    nothing = compared(tmp_path / "base", tmp_path / "out", Selected({}))
    assert (nothing["share_moved"], nothing["others_moved"]) == (None, 32 * 48)


def test_whole_parameters_can_be_what_was_selected(tmp_path):
    saved("llama", tmp_path / "base", layers=1)
    changed_copy(tmp_path / "base", tmp_path / "out", DOWN, lambda value: value + 1)
    facts = compared(tmp_path / "base", tmp_path / "out", Selected(trained={DOWN}))
    assert (facts["selected"], facts["moved"], facts["others_moved"]) == (32 * 48, 32 * 48, 0)


def test_a_mask_of_what_did_not_train_counts_for_nothing(tmp_path):
    saved("llama", tmp_path / "base", layers=1)
    mask = torch.ones(32, 48, dtype=torch.bool)
    facts = compared(tmp_path / "base", tmp_path / "base", Selected({DOWN: mask}, trained={"lm_head.weight"}))
    assert facts["selected"] == 0


def test_a_mask_of_another_shape_is_refused(tmp_path):
    saved("llama", tmp_path / "base", layers=1)
    with pytest.raises(
        ModelError, match=r"mask of .*: is torch.bool of shape \[48, 32\], the parameter has the shape \[32, 48\]"
    ):
        compared(tmp_path / "base", tmp_path / "base", Selected({DOWN: torch.ones(48, 32, dtype=torch.bool)}))


# ---- other dtypes, names, layouts ----


def test_loading_in_a_wider_dtype_changes_nothing(tmp_path):
    model = saved("llama", tmp_path / "base", layers=1, dtype=torch.bfloat16)
    model.float().save_pretrained(tmp_path / "out")
    facts = compared(tmp_path / "base", tmp_path / "out")
    assert facts["changed"] == 0 and facts["dtype"] == {"before": "bfloat16", "after": "float32"}


def test_rounding_by_loading_in_a_narrower_dtype_is_not_counted_and_what_trained_is(tmp_path):
    model = saved("llama", tmp_path / "base", layers=1).to(torch.bfloat16)
    with torch.no_grad():
        model.get_parameter(DOWN)[0] += 1
    model.save_pretrained(tmp_path / "out")
    assert compared(tmp_path / "base", tmp_path / "out")["changed"] == 48


def test_steps_too_small_for_the_dtype_are_seen_not_to_move_anything(tmp_path):
    model = saved("llama", tmp_path / "base", layers=1, dtype=torch.bfloat16)
    small = model.get_parameter(DOWN).detach().float() * (1 + 2.0**-11)
    write_changed(tmp_path / "base", {DOWN: small}, tmp_path / "out")
    facts = compared(tmp_path / "base", tmp_path / "out", Selected(trained={DOWN}))
    assert facts["share_moved"] == 0.0


@pytest.mark.parametrize(("kind", "tie"), [(kind, number % 2 == 1) for number, kind in enumerate(KINDS)])
def test_every_architecture_is_compared_over_all_of_its_parameters(tmp_path, kind, tie):
    model = saved(kind, tmp_path / "base", layers=2, tie=tie)
    name = next(name for name, p in model.named_parameters() if "layers.1." in name or "h.1." in name)
    mask = torch.rand(model.get_parameter(name).shape, generator=torch.Generator().manual_seed(0)) < 0.5
    with torch.no_grad():
        model.get_parameter(name).add_(mask)
    model.save_pretrained(tmp_path / "out", max_shard_size="1GB")
    facts = compared(tmp_path / "base", tmp_path / "out", Selected({name: mask}))
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert facts["moved"] == facts["changed"] == row(facts, layer=1)["changed"] == int(mask.sum())


@pytest.mark.parametrize("save", ["apart", "fused", "bare"])
def test_experts_are_compared_however_they_are_stored(tmp_path, save):
    model = saved("mixtral", tmp_path / "base", layers=1, shard="1GB")
    name = "model.layers.0.mlp.experts.gate_up_proj"
    mask = torch.rand(model.get_parameter(name).shape, generator=torch.Generator().manual_seed(0)) < 0.3
    with torch.no_grad():
        model.get_parameter(name).add_(mask)
    model.save_pretrained(tmp_path / "out", save_original_format=save != "fused")
    if save == "bare":
        file = tmp_path / "out/model.safetensors"
        save_file({key.removeprefix("model."): value for key, value in load_file(file).items()}, file, {"format": "pt"})
    for one, other in (("base", "out"), ("out", "base")):
        facts = compared(tmp_path / one, tmp_path / other, Selected({name: mask}))
        assert (facts["moved"], facts["others_moved"]) == (int(mask.sum()), 0)


def test_a_shared_matrix_counts_once_however_it_is_stored(tmp_path):
    model = saved("llama", tmp_path / "base", layers=1, tie=True, shard="1GB")
    tensors = load_file(tmp_path / "base/model.safetensors")
    shared = tensors.pop("model.embed_tokens.weight")
    changed_copy(tmp_path / "base", tmp_path / "out", "model.embed_tokens.weight", lambda value: value + 1)
    save_file({**tensors, "lm_head.weight": shared}, tmp_path / "base/model.safetensors", {"format": "pt"})
    facts = compared(tmp_path / "base", tmp_path / "out", Selected(trained={"model.embed_tokens.weight"}))
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert facts["changed"] == facts["moved"] == shared.numel()


def test_weights_that_are_no_numbers_any_more_are_counted(tmp_path):
    saved("llama", tmp_path / "base", layers=1)
    changed_copy(tmp_path / "base", tmp_path / "out", DOWN, lambda value: value.fill_(float("nan")))
    facts = compared(tmp_path / "base", tmp_path / "out")
    assert (facts["not_finite"], facts["relative_change"]) == (32 * 48, None)


@pytest.mark.parametrize(
    ("kind", "layers", "message"), [("llama", 1, "lacks model.layers.1."), ("gpt2", 2, "lacks model.embed_tokens")]
)
def test_checkpoints_of_two_models_are_refused(tmp_path, kind, layers, message):
    saved("llama", tmp_path / "base", layers=2)
    saved(kind, tmp_path / "other", layers=layers)
    with pytest.raises(ModelError, match=message):
        compared(tmp_path / "base", tmp_path / "other")


def test_another_vocabulary_is_refused(tmp_path):
    model = saved("llama", tmp_path / "base", layers=1)
    model.resize_token_embeddings(50, mean_resizing=False)
    model.save_pretrained(tmp_path / "out")
    with pytest.raises(ModelError, match=r"has the shape \[48, 32\] in .* and \[50, 32\] in .*one model and vocabulary"):
        compared(tmp_path / "base", tmp_path / "out")
