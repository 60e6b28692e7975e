import itertools

import numpy as np
import pytest
import torch

from temper.errors import ModelError
from temper.models.rows import row_masks, top_rows, transposed_weights

A = torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]])  # row norms 5, 1, 0
B = torch.tensor([[0.0, 2.0], [6.0, 8.0]])  # row norms 2, 10


def rows_of(mask):
    return [i for i, row in enumerate(mask) if row.any()]


def test_rows_of_all_matrices_compete_in_the_global_scope():
    masks = row_masks([("a", A), ("b", B)], percentile=60)
    assert (rows_of(masks["a"]), rows_of(masks["b"])) == ([0], [1])


def test_rows_compete_within_their_matrix_in_the_tensor_scope():
    masks = row_masks([("a", A / 100), ("b", B)], percentile=60, scope="tensor")
    assert (rows_of(masks["a"]), rows_of(masks["b"])) == ([0, 1], [1])


def test_a_selected_row_is_selected_whole():
    mask = row_masks([("a", A)], percentile=60)["a"]
    assert mask.shape == A.shape and mask.dtype == torch.bool
    assert mask.tolist() == [[True, True], [True, True], [False, False]]


def test_the_norm_is_euclidean_over_the_inputs():
    masks = row_masks([("a", torch.tensor([[3.0, 3.0, 3.0], [5.0, 0.0, 0.0]]))], percentile=50)
    assert rows_of(masks["a"]) == [0]  # sqrt(27) = 5.196 against 5


def test_the_output_rows_of_a_transposed_matrix_are_its_columns():
    mask = row_masks([("a", A.T.contiguous())], percentile=60, transposed={"a"})["a"]
    assert mask.tolist() == [[True, True, False], [True, True, False]]


def test_ties_go_to_the_first_name_and_row_in_whatever_order_gradients_arrive():
    tied = torch.ones(2, 2)
    forward = row_masks([("a", tied), ("b", tied)], percentile=75)
    backward = row_masks([("b", tied), ("a", tied)], percentile=75)
    assert rows_of(forward["a"]) == rows_of(backward["a"]) == [0]
    assert rows_of(forward["b"]) == rows_of(backward["b"]) == []


def test_rows_without_a_gradient_never_train():
    assert rows_of(row_masks([("a", A)], percentile=0)["a"]) == [0, 1]


def test_vectors_are_passed_over():
    assert list(row_masks([("norm", torch.ones(3)), ("a", A)], percentile=50)) == ["a"]


def test_no_gradients_give_no_masks():
    assert row_masks([]) == {}


def test_half_precision_gradients_are_ranked_in_float32():
    near = torch.tensor([[1.0] * 300, [1.0] * 299 + [1.0078125]], dtype=torch.bfloat16)
    assert rows_of(row_masks([("a", near)], percentile=50)["a"]) == [1]


@pytest.mark.parametrize("count, percentile, expected", [(10, 90, 1), (15, 90, 2), (1000, 90, 100), (1000, 99.9, 1), (7, 0, 7)])
def test_the_number_of_rows_is_the_share_rounded_up(count, percentile, expected):
    saliency = np.random.default_rng(0).uniform(1, 2, count)
    assert top_rows(saliency, percentile).sum() == expected


def test_selections_of_a_higher_percentile_are_nested():
    saliency = np.random.default_rng(1).integers(0, 5, 200).astype(float)
    masks = [top_rows(saliency, p) for p in (50, 75, 90, 99)]
    assert all((wide | narrow).sum() == wide.sum() for wide, narrow in itertools.pairwise(masks))


def test_a_percentile_out_of_range_is_refused():
    with pytest.raises(ModelError, match="percentile = 100: must be at least 0 and below 100"):
        top_rows(np.ones(3), 100)


def test_a_gradient_that_is_not_finite_is_refused():
    with pytest.raises(ModelError, match="the gradient of a is not finite"):
        row_masks([("a", torch.full((2, 2), torch.nan))])


def test_the_transposed_weights_of_gpt2_are_found():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    names = transposed_weights(model)
    assert "transformer.h.0.mlp.c_proj.weight" in names and "transformer.wte.weight" not in names


def test_a_llama_has_no_transposed_weights(make_llama):
    assert transposed_weights(make_llama()) == frozenset()
