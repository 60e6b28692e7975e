import copy

import pytest
import torch

from temper.errors import ModelError
from temper.models.taskvector import FolderTensors, negate, negate_model, negate_tensor


@pytest.fixture
def models(make_llama):
    return tuple(make_llama(seed=seed) for seed in (0, 1, 2))


def tensors(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def bits(model):
    return {name: value.view(torch.int32) for name, value in tensors(model).items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_formula_by_hand():
    assert negate_tensor(torch.tensor([1.0, 2.0]), [torch.tensor([2.0, 1.0]), torch.tensor([1.5, 2.0])], 2.0).tolist() == [
        -2.0,
        4.0,
    ]


def test_strength_zero_keeps_every_bit(models):
    models[0].lm_head.weight.data[0, 0] = -0.0
    before = bits(models[0])
    negate_model(models[0], models[1], 0.0)
    assert equal(bits(models[0]), before)


def test_strength_minus_one_is_the_reinforced_model(models):
    original, reinforced = (model.double() for model in models[:2])
    negate_model(original, reinforced, -1.0)
    for found, wanted in zip(original.parameters(), reinforced.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15)


def test_two_vectors_negated_are_minus_their_sum(models):
    start, first, second = (tensors(model.double()) for model in models)
    found = negate(start, [first, second], 0.5)
    for name, value in found.items():
        wanted = start[name] - 0.5 * ((first[name] - start[name]) + (second[name] - start[name]))
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-15)


def test_in_place_equals_the_function_of_tensors(models):
    wanted = negate(tensors(models[0]), tensors(models[1]), 0.7)
    negate_model(models[0], models[1], 0.7)
    assert equal(tensors(models[0]), wanted)


def test_a_folder_of_shards_equals_the_model(models, tmp_path):
    models[1].save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    other = copy.deepcopy(models[0])
    negate_model(models[0], tmp_path, 0.7)
    negate_model(other, models[1], 0.7)
    assert equal(tensors(models[0]), tensors(other))


def test_tied_weights_move_once_and_stay_tied(make_llama, tmp_path):
    original, reinforced = make_llama(tie=True, seed=0), make_llama(tie=True, seed=1)
    reinforced.save_pretrained(tmp_path)  # the file keeps one of the two names
    start, vector = original.lm_head.weight.detach().clone(), reinforced.lm_head.weight - original.lm_head.weight
    negate_model(original, tmp_path, 1.0)
    assert original.lm_head.weight is original.model.embed_tokens.weight
    torch.testing.assert_close(original.lm_head.weight.detach(), (start - vector).detach())


def test_a_reinforced_model_that_lost_its_tie_is_refused(make_llama):
    with pytest.raises(ModelError, match="are one tensor in the original"):
        negate_model(make_llama(tie=True), make_llama(tie=False), 1.0)


def test_a_folder_that_lost_its_tie_is_refused(make_llama, tmp_path):
    make_llama(tie=False).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="are one tensor in the original"):
        negate_model(make_llama(tie=True), tmp_path, 1.0)


def test_half_precision_is_summed_in_float32_and_rounded_once():
    generator = torch.Generator().manual_seed(0)
    start, first, second = (torch.randn(1000, generator=generator).to(torch.bfloat16) for _ in range(3))
    found = negate_tensor(start, [first, second], 0.3)
    assert torch.equal(found, negate_tensor(start.float(), [first.float(), second.float()], 0.3).to(torch.bfloat16))


def test_integers_stay():
    start, other = {"steps": torch.tensor([3]), "w": torch.tensor([1.0])}, {"steps": torch.tensor([9]), "w": torch.tensor([2.0])}
    found = negate(start, other, 1.0)
    assert found["steps"].tolist() == [3] and found["w"].tolist() == [0.0]


def test_integers_need_not_be_in_the_reinforced_model():
    assert negate({"steps": torch.tensor([3]), "w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}, 1.0)["w"].tolist() == [0.0]


def test_buffers_that_are_saved_move_too():
    start, other = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    other.running_mean += 1.0
    other.num_batches_tracked += 5
    negate_model(start, other, 1.0)
    assert start.running_mean.tolist() == [-1.0, -1.0] and start.num_batches_tracked.item() == 0


def test_gradients_and_the_parameters_themselves_are_left_alone(models):
    parameter = models[0].lm_head.weight
    negate_model(models[0], models[1], 1.0)
    assert models[0].lm_head.weight is parameter and parameter.requires_grad and parameter.grad is None


def test_a_model_that_does_not_fit_changes_nothing(models, make_llama):
    before = bits(models[0])
    with pytest.raises(ModelError, match=r"has the shape \(80, 32\), in the original \(64, 32\)"):
        negate_model(models[0], make_llama(vocab=80), 1.0)
    assert equal(bits(models[0]), before)


def test_a_missing_tensor_is_named(models, make_llama):
    with pytest.raises(ModelError, match=r"reinforced model 2: holds no model\.layers\.1"):
        negate_model(models[0], [models[1], make_llama(layers=1)], 1.0)


def test_a_tensor_too_many_is_named(models, make_llama):
    with pytest.raises(ModelError, match=r"holds model\.layers\.2.*does not have"):
        negate_model(models[0], make_llama(layers=3), 1.0)


def test_a_strength_that_is_no_number_is_refused(models):
    with pytest.raises(ModelError, match="strength = nan"):
        negate_model(models[0], models[1], float("nan"))


def test_no_reinforced_model_is_refused(models):
    with pytest.raises(ModelError, match="no reinforced model"):
        negate_model(models[0], [], 1.0)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ModelError, match="holds no safetensors weights"):
        FolderTensors(tmp_path)


def test_a_file_that_is_no_safetensors_file_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match="no readable safetensors file"):
        FolderTensors(tmp_path)


def test_two_sets_of_weights_in_one_folder_are_refused(tmp_path):
    from safetensors.torch import save_file

    for name in ("a", "b"):
        save_file({"w": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ModelError, match="both hold w"):
        FolderTensors(tmp_path)
