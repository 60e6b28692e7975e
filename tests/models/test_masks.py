import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from temper.errors import ModelError
from temper.models.masks import density, load_masks, mask_facts, parameters_hash, save_masks


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


def test_density_is_the_share_of_weights_that_may_change():
    model = Small()
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[0] = True
    assert density({"weight": mask}, model) == 8 / 18  # the bias has no mask and trains whole
    model.bias.requires_grad_(False)
    assert density({"weight": mask}, model) == 5 / 18
