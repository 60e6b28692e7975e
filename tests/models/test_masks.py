import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from torch import nn

from temper.errors import ModelError
from temper.models.masks import (
    combine,
    densities,
    load_masks,
    mask_facts,
    overlap,
    parameters_hash,
    save_masks,
)


class Small(nn.Module):
    def __init__(self, width=5, extra=False, name="weight"):
        super().__init__()
        self.register_parameter(name, nn.Parameter(torch.zeros(3, width)))
        self.bias = nn.Parameter(torch.zeros(3))
        if extra:
            self.scale = nn.Parameter(torch.zeros(()))


def random_masks(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(p.shape, generator=generator) < 0.4 for name, p in model.named_parameters()}


@pytest.fixture
def saved(tmp_path):
    model = Small()
    masks = random_masks(model)
    return save_masks(tmp_path / "m.safetensors", masks, model, {"ratio": 0.4}, weights_hash="ab" * 32), masks


def test_masks_come_back_as_they_were_saved(saved):
    path, masks = saved
    loaded = load_masks(path, Small())
    assert loaded.keys() == masks.keys()
    assert all(loaded[name].dtype == torch.bool and torch.equal(loaded[name], masks[name]) for name in masks)


def test_the_masks_of_a_whole_model_come_back(tmp_path, make_llama):
    model = make_llama()
    masks = random_masks(model)
    loaded = load_masks(save_masks(tmp_path / "m", masks, model), model)
    assert all(torch.equal(loaded[name], masks[name]) for name in masks)


def test_a_mask_of_repeated_rows_is_saved_like_a_plain_one(tmp_path):
    model = Small()
    view = torch.tensor([True, False, True])[:, None].expand(3, 5)
    one = save_masks(tmp_path / "a", {"weight": view}, model).read_bytes()
    assert one == save_masks(tmp_path / "b", {"weight": view.clone()}, model).read_bytes()


def test_a_mask_of_a_single_number_comes_back(tmp_path):
    model = Small(extra=True)
    masks = {"scale": torch.tensor(True)}
    assert load_masks(save_masks(tmp_path / "m", masks, model), model)["scale"].shape == ()


def test_one_bit_is_stored_a_weight(saved):
    assert load_file(saved[0])["weight"].nbytes == 2  # 15 weights


def test_equal_masks_give_equal_bytes(tmp_path):
    model = Small()
    facts = {"b": 1, "a": [2]}
    one = save_masks(tmp_path / "1", random_masks(model), model, facts)
    two = save_masks(tmp_path / "2", dict(reversed(random_masks(model).items())), model, dict(reversed(facts.items())))
    assert one.read_bytes() == two.read_bytes()


def test_the_header_says_how_the_mask_was_made(saved):
    header = mask_facts(saved[0])
    assert header["facts"] == {"ratio": 0.4} and header["schema"] == "temper/mask/1"
    assert header["parameters_hash"] == parameters_hash(Small())


@pytest.mark.parametrize(
    "other, difference",
    [
        (Small(width=6), r"weight has the shape \[3, 5\] there and \[3, 6\] here"),
        (Small(name="kernel"), "it has a parameter weight where Small has kernel"),
        (Small(extra=True), "it has 2 parameters, Small has 3"),
    ],
)
def test_a_mask_of_another_model_is_refused_with_the_first_difference(saved, other, difference):
    with pytest.raises(ModelError, match=f"was made for another model: {difference}"):
        load_masks(saved[0], other)


def test_other_weights_are_refused_where_both_hashes_are_known(saved, tmp_path):
    with pytest.raises(ModelError, match="was computed from weights with the hash abababababab"):
        load_masks(saved[0], Small(), weights_hash="cd" * 32)
    assert load_masks(saved[0], Small(), weights_hash="ab" * 32)
    unknown = save_masks(tmp_path / "unknown", random_masks(Small()), Small())
    assert load_masks(unknown, Small(), weights_hash="cd" * 32)


def test_a_mask_that_does_not_fit_is_not_saved(tmp_path):
    for masks, message in [
        ({"weight": torch.ones(3, 4, dtype=torch.bool)}, r"is torch.bool of shape \[3, 4\]"),
        ({"weight": torch.ones(3, 5)}, "is torch.float32"),
        ({"other": torch.ones(3, dtype=torch.bool)}, "has no parameter of this name"),
    ]:
        with pytest.raises(ModelError, match=message):
            save_masks(tmp_path / "m", masks, Small())
    assert list(tmp_path.iterdir()) == []


def test_facts_that_are_not_json_leave_no_file(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        save_masks(tmp_path / "m", {}, Small(), {"ratio": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_a_mask_file_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no such mask file"):
        load_masks(tmp_path / "none", Small())
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ModelError, match="is not a safetensors file, or is damaged"):
        load_masks(tmp_path / "text", Small())
    save_file({"weight": np.zeros(2, np.uint8)}, tmp_path / "plain")
    with pytest.raises(ModelError, match="is not a mask file"):
        load_masks(tmp_path / "plain", Small())
    save_file({}, tmp_path / "header", {"temper": json.dumps({"schema": "temper/mask/1"})})
    with pytest.raises(ModelError, match="lacks facts, parameters, parameters_hash, weights_hash"):
        load_masks(tmp_path / "header", Small())


def test_a_cut_off_file_is_refused(saved):
    saved[0].write_bytes(saved[0].read_bytes()[:-1])
    with pytest.raises(ModelError, match="is damaged"):
        load_masks(saved[0], Small())


def test_a_mask_of_the_wrong_length_is_refused(saved):
    header = {"temper": json.dumps(mask_facts(saved[0]))}
    save_file({"weight": np.zeros(3, np.uint8)}, saved[0], header)
    with pytest.raises(ModelError, match=r"the mask of weight is uint8 of shape \[3\]; expected uint8 of shape \[2\]"):
        load_masks(saved[0], Small())


def test_a_loaded_mask_is_unpacked_when_it_is_asked_for_and_counted_without(saved, monkeypatch):
    path, masks = saved
    loaded = load_masks(path, Small())
    monkeypatch.setattr(np, "unpackbits", lambda *_, **__: pytest.fail("unpacked"))
    assert loaded.counts() == {name: int(mask.sum()) for name, mask in masks.items()}
    assert loaded.shape("weight") == (3, 5) and "other" not in loaded


def test_masks_that_select_nothing_are_left_out_on_request(tmp_path):
    model = Small()
    masks = {"weight": torch.ones(3, 5, dtype=torch.bool), "bias": torch.zeros(3, dtype=torch.bool)}
    kept = load_masks(save_masks(tmp_path / "m", masks, model), model).selecting()
    assert list(kept) == ["weight"] and kept.counts() == {"weight": 15} and bool(kept["weight"].all())


def test_masks_are_asked_for_once_each_and_written_one_after_the_other(tmp_path):
    asked = []

    class Lazy(dict):
        def __getitem__(self, name):
            asked.append(name)
            return super().__getitem__(name)

    masks = random_masks(Small())
    save_masks(tmp_path / "m", Lazy(masks), Small())
    assert asked == ["bias", "weight"]


def test_masks_that_were_loaded_are_saved_to_equal_bytes(saved, tmp_path):
    again = save_masks(tmp_path / "again", load_masks(saved[0], Small()), Small(), {"ratio": 0.4}, weights_hash="ab" * 32)
    assert again.read_bytes() == saved[0].read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["again", "m.safetensors"]


def test_a_file_is_replaced_whole(saved):
    path, _ = saved
    before = load_masks(path, Small())
    expected = before["weight"].clone()
    save_masks(path, random_masks(Small(), seed=1), Small())
    assert torch.equal(before["weight"], expected)  # the map still shows the file that was opened
    assert not torch.equal(load_masks(path, Small())["weight"], expected)


def test_a_failure_half_way_leaves_the_old_file(saved):
    path, masks = saved
    whole = path.read_bytes()
    with pytest.raises(ModelError, match="mask of weight: is torch.int64"):
        save_masks(path, masks | {"weight": torch.ones(3, 5, dtype=torch.long)}, Small())
    assert path.read_bytes() == whole and list(path.parent.iterdir()) == [path]


# ---- a model that was cut, another vocabulary ----


@pytest.fixture
def cut(make_llama, tmp_path):
    """A whole model, its folder, and the same model cut after its first block."""
    from temper.models.cut import load_cut
    from temper.recipe import WorldSection

    def make(layers):
        model = make_llama(layers=layers)
        model.save_pretrained(tmp_path / str(layers))
        return model, load_cut(str(tmp_path / str(layers)), 0, world=WorldSection())

    return make


def test_a_cut_model_takes_the_masks_of_what_it_has(cut, tmp_path):
    whole, lower = cut(3)
    masks = random_masks(whole)
    loaded = load_masks(save_masks(tmp_path / "m", masks, whole), lower)
    assert list(loaded) == [name for name, _ in lower.named_parameters()] and len(loaded) < len(masks)
    assert all(torch.equal(loaded[name], masks[name]) for name in loaded)


def test_a_cut_model_refuses_the_masks_of_a_model_of_another_depth(cut, make_llama, tmp_path):
    path = save_masks(tmp_path / "m", {}, make_llama(layers=4))
    with pytest.raises(ModelError, match="it has 4 decoder blocks, LlamaForCausalLM has 3"):
        load_masks(path, cut(3)[1])


def test_a_cut_model_refuses_the_masks_of_a_model_of_another_width(cut, make_llama, tmp_path):
    path = save_masks(tmp_path / "m", {}, make_llama(layers=3, width=16))
    with pytest.raises(ModelError, match="model.embed_tokens.weight has the shape"):
        load_masks(path, cut(3)[1])


def test_a_file_for_a_cut_model_is_made_from_the_parameters_of_the_whole_one(cut, tmp_path):
    whole, lower = cut(3)
    masks = random_masks(lower)
    with pytest.raises(ModelError, match="LlamaForCausalLM was cut, and a mask file is tied to the whole model"):
        save_masks(tmp_path / "m", masks, lower)
    parameters = [(name, p.shape) for name, p in whole.named_parameters()]
    found = load_masks(save_masks(tmp_path / "m", masks, parameters), whole)
    assert found.keys() == {name for name, _ in parameters}
    assert all(torch.equal(found[name], masks[name]) if name in masks else not bool(found[name].any()) for name in found)


def test_another_vocabulary_is_named_as_such(make_llama, tmp_path):
    path = save_masks(tmp_path / "m", {}, make_llama(vocab=64))
    with pytest.raises(
        ModelError, match=r"the shape \[64, 32\] there and \[65, 32\] here, which is another vocabulary \(was a token"
    ):
        load_masks(path, make_llama(vocab=65))


def test_damage_that_keeps_the_length_is_seen(saved):
    path, _ = saved
    content = load_file(path)
    header = mask_facts(path)
    content["weight"] = content["weight"] | np.array([0, 1], np.uint8)  # the 16th bit of 15
    save_file(content, path, {"temper": json.dumps(header)})
    with pytest.raises(ModelError, match="the mask of weight goes on after its last entry; the file is damaged"):
        load_masks(path, Small())
    save_file({}, path, {"temper": json.dumps(header | {"parameters": [["weight", [3, 6]]]})})
    with pytest.raises(ModelError, match="its parameters do not have the hash it gives"):
        mask_facts(path)
    save_file({}, path, {"temper": json.dumps(header | {"parameters": "all"})})
    with pytest.raises(ModelError, match="header of the mask file is damaged"):
        mask_facts(path)


# ---- sets of masks ----

A = {"w": torch.tensor([[True, True], [False, False]]), "only a": torch.tensor([True])}
B = {"w": torch.tensor([[True, False], [True, False]])}
C = {"w": torch.tensor([[True, False], [False, False]]), "only c": torch.tensor([True, True])}


@pytest.mark.parametrize(
    "by, w, only",
    [("union", [[1, 1], [1, 0]], 1), ("intersection", [[1, 0], [0, 0]], 0), ("majority", [[1, 0], [0, 0]], 0)],
)
def test_masks_combine_by(by, w, only):
    both = combine([A, B, C], by)
    assert both["w"].int().tolist() == w
    assert both["only a"].item() == both["only c"].all().item() == bool(only)
    assert both.counts() == {name: int(mask.sum()) for name, mask in both.items()}


def test_a_majority_is_more_than_half():
    assert torch.equal(combine([A, B], "majority")["w"], combine([A, B], "intersection")["w"])
    assert torch.equal(combine([A, A, B], "majority")["w"], A["w"])


def test_packed_masks_combine_like_plain_ones(tmp_path):
    model = Small()
    plain = [random_masks(model, seed) for seed in range(3)]
    packed = [load_masks(save_masks(tmp_path / str(i), masks, model), model) for i, masks in enumerate(plain)]
    for by in ("union", "intersection", "majority"):
        one, other = combine(plain, by), combine(packed, by)
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert overlap(*plain[:2]) == overlap(*packed[:2])


bits = st.lists(st.booleans(), min_size=11, max_size=11)


@settings(max_examples=40, deadline=None)
@given(sets=st.lists(bits, min_size=2, max_size=5))
def test_combined_masks_follow_from_how_many_sets_select_a_weight(sets):
    masks = [{"w": torch.tensor(own)} for own in sets]
    votes = sum(own["w"].int() for own in masks)
    for by, expected in (("union", votes > 0), ("intersection", votes == len(sets)), ("majority", 2 * votes > len(sets))):
        both = combine(masks, by)
        assert torch.equal(both["w"], expected) and both.counts() == {"w": int(expected.sum())}


def test_combining_refuses_what_cannot_be_combined():
    with pytest.raises(ModelError, match="1 set of masks: combining takes at least two"):
        combine([A], "union")
    with pytest.raises(ModelError, match="by = 'unoin': no such way.*union"):
        combine([A, B], "unoin")
    with pytest.raises(ModelError, match=r"masks of different models: w has the shape \[2, 2\] in one and \[3\] in another"):
        combine([A, {"w": torch.ones(3, dtype=torch.bool)}], "union")


def test_overlap_is_intersection_over_union():
    assert overlap(A, A) == 1.0
    assert overlap(A, B) == 1 / 4  # w: one of three, and what B does not name
    assert overlap({}, {"w": torch.zeros(2, dtype=torch.bool)}) is None


def test_densities_are_given_by_kind_and_block(make_llama):
    model = make_llama()
    name = "model.layers.1.mlp.up_proj.weight"
    cells = densities([(n, p.shape) for n, p in model.named_parameters()], {name: 1024})
    by_place = {(cell["kind"], cell["layer"]): cell for cell in cells}
    found = {"weights": 2048, "competing": 2048, "selected": 1024, "density": 0.5}
    assert by_place["mlp.up_proj", 1] == {"kind": "mlp.up_proj", "layer": 1, **found}
    assert by_place["lm_head", None]["density"] == by_place["lm_head", None]["competing"] == 0
    assert sum(cell["weights"] for cell in cells) == sum(p.numel() for p in model.parameters())
