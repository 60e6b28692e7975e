"""What WAGLE does on 200 memorised facts: its weights forget fast, what is not selected stays, and what is kept at equal forget loss.

Acceptance check B12 of the method asks whether WAGLE keeps at least as much as dense training and as random masks, as the mean of five seeds,
and that nothing is claimed where it does not. It does not here, and docs/wagle.md says so: the last tests hold that sentence to the numbers.
"""

import statistics

import pytest
import torch

from temper.recipe import named_settings
from tests.unlearn import memorised

SEEDS = range(5)


def unlearned(name, seed, ratio=0.1, rate=None, **settings):
    selection = None if name == "dense" else named_settings("selection", {name: {"ratio": ratio, **settings}})
    return memorised.unlearn(selection, seed, rate)


@pytest.fixture(scope="module")
def quick():
    """Return way to model, masks, steps and retain loss of one seed."""
    return {name: unlearned(name, 0) for name in ("random", "wagle")}


def test_everything_is_memorised_before():
    model = memorised.trained_model()
    with torch.no_grad():
        assert max(memorised.loss_of(model, part).item() for part in memorised.facts()) < 0.1


@pytest.mark.parametrize("name", ["random", "wagle"])
def test_what_is_not_selected_is_bit_identical_and_a_tenth_is_selected(quick, name):
    model, masks, step, _ = quick[name]
    before = memorised.trained_model().state_dict()
    selected = sum(int(mask.sum()) for mask in masks.values())
    assert step is not None
    assert selected == sum(mask.numel() for mask in masks.values()) // 10
    moved = {key: (p != before[key]) for key, p in model.named_parameters()}
    assert not any(bool((moved[key] & ~mask).any()) for key, mask in masks.items())
    assert any(bool(moved[key].any()) for key in masks)


def test_the_weights_that_wagle_chooses_forget_in_fewer_steps_than_as_many_random_ones(quick):
    assert quick["wagle"][2] < 0.6 * quick["random"][2]


@pytest.fixture(scope="module")
def kept():
    """Return way to the retain loss of each seed at the forget loss of 2 nats; `slow` has a rate at which it takes the steps of random masks."""
    ways = {"dense": {}, "random": {}, "wagle": {}, "wagle slow": {"rate": 1.2e-3}, "dense slow": {"rate": 3.0e-4}}
    return {way: [unlearned(way.split()[0], seed, **settings)[3] for seed in SEEDS] for way, settings in ways.items()}


@pytest.mark.slow
def test_every_way_reaches_the_forget_loss_with_every_seed(kept, record_property):
    record_property("retain loss at equal forget loss", {way: [round(v, 3) for v in found] for way, found in kept.items()})
    assert all(value is not None for found in kept.values() for value in found)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["wagle", "wagle slow"])
def test_at_equal_forget_loss_wagle_does_not_keep_more_than_random_masks_so_nothing_is_claimed(kept, way):
    assert statistics.fmean(kept[way]) > statistics.fmean(kept["random"])


@pytest.mark.slow
def test_at_equal_forget_loss_wagle_does_not_keep_more_than_dense_training_at_a_low_rate(kept):
    assert statistics.fmean(kept["wagle slow"]) > statistics.fmean(kept["dense slow"])
