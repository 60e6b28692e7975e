"""What training holds in memory, counted beforehand: against the optimiser itself, for every storage, precision and optimiser."""

import pytest
import torch
from torch import nn

from temper.errors import RecipeError
from temper.recipe import TrainSection
from temper.train.bases import base_of
from temper.train.masked import MaskedOptimizer
from temper.unlearn.checks import objective_of
from temper.unlearn.costs import Trained, bytes_beside_weights
from tests.unlearn.models import recipe_for, write_world

SIDE = 40


def section(**changes):
    return TrainSection(steps=1, **changes)


def really(train, ratio, dtype):
    """Return the bytes that the optimiser keeps and of places and packed gradients, for one square matrix."""
    weight = nn.Parameter(torch.zeros(SIDE, SIDE, dtype=dtype))
    mask = torch.zeros(SIDE * SIDE, dtype=torch.bool)
    mask[torch.randperm(SIDE * SIDE, generator=torch.Generator().manual_seed(0))[: int(ratio * SIDE * SIDE)]] = True
    optimizer = MaskedOptimizer(
        base_of(train, [("w", weight)]), {"w": mask.view(SIDE, SIDE)}, storage=train.storage, precision=train.precision
    )
    optimizer.attach()
    (weight * torch.ones(SIDE, SIDE, dtype=dtype)).sum().backward()
    packed = sum(g.numel() * g.element_size() for g in optimizer.packed_gradients().values())
    dense = 0 if weight.grad is None else weight.grad.numel() * weight.grad.element_size()
    optimizer.detach()
    return optimizer.state_bytes(), optimizer.place_bytes(), packed + dense


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"storage": "delta"},
        {"storage": "dense_compat"},
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "rmsprop"},
        {"precision": "bf16_pure"},
    ],
)
@pytest.mark.parametrize("ratio", [0.1, 0.5])
def test_the_count_is_what_the_optimiser_really_holds(changes, ratio, dtype):
    train = section(**changes)
    state, places, gradients = really(train, ratio, dtype)
    what = Trained(int(ratio * SIDE * SIDE), SIDE * SIDE, masked=True, lines=False, width=dtype.itemsize)
    counted = bytes_beside_weights(train, what, keeps_original=False)
    # starts and lengths of blocks are not worth counting
    assert counted == pytest.approx(state + places + gradients, abs=64)


def test_originals_are_counted_unless_the_delta_form_has_them_anyway():
    what = Trained(100, 1000, masked=True, lines=False, width=4)
    more = [
        bytes_beside_weights(section(storage=storage), what, keeps_original=True)
        - bytes_beside_weights(section(storage=storage), what, keeps_original=False)
        for storage in ("packed", "delta")
    ]
    assert more == [400, 0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("costs")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train": {"clip": "dense"}}, "train.clip: dense counts gradients outside a mask"),
        (
            {"train": {"clip": "dense", "max_grad_norm": 0.0}, "selection": {"random": 0.5}},
            "max_grad_norm = 0 switches clipping off",
        ),
        ({"train": {"storage": "dense_compat"}}, "train.storage: dense_compat"),
        (
            {"train": {"precision": "bf16_pure"}},
            "train.precision: bf16_pure is for weights in half precision, and model.dtype float32",
        ),
        ({"train": {"precision": "bf16_pure"}, "selection": {"lora": 2}}, "and an adapter trains in float32"),
    ],
)
def test_settings_that_nothing_would_read_are_refused(folder, make_llama, changes, says):
    if not (folder / "model").is_dir():
        write_world(folder, make_llama, layers=1)
    with pytest.raises(RecipeError, match=says):
        objective_of(recipe_for(folder, **changes))


def test_float16_gradients_are_not_scored(folder, make_llama):
    selection = {"lora": {"rank": 2, "by": {"wagle": 0.1}}}
    from temper.recipe import from_dict

    document = recipe_for(folder, selection=selection).model_dump(mode="json")
    document["model"]["dtype"] = "float16"
    with pytest.raises(RecipeError, match="selection.lora.by: reads gradients, which float16 loses"):
        objective_of(from_dict(document))
