"""Where rows are steered to: directions by seed and topic, lengths, and several topics."""

import statistics

import pytest
import torch
from torch.nn import functional as F

from temper.errors import DataError, RecipeError
from temper.recipe import from_dict
from temper.train.engine import Engine, count_units
from temper.unlearn.context import sketched_context
from temper.unlearn.r2mu import R2MU
from temper.unlearn.rmu import RMU, control_direction
from tests.unlearn.test_r2mu import LAYER, batch, hidden, selected, terms_of


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_a_direction_has_norm_one_and_depends_on_seed_and_topic_alone(distribution):
    first = control_direction(64, 3, "bio", distribution)
    assert float(first.double().norm()) == pytest.approx(1.0, abs=1e-6) and first.dtype == torch.float32
    torch.rand(1000)  # the data code may draw what it likes
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert control_direction(64, 3, "bio", distribution).float() == pytest.approx(first, abs=1e-7)
    finally:
        torch.set_default_dtype(default)
    assert torch.equal(control_direction(64, 3, "bio", distribution), first)
    assert not torch.equal(control_direction(64, 3, "cyber", distribution), first)
    assert not torch.equal(control_direction(64, 4, "bio", distribution), first)


def test_a_direction_does_not_depend_on_the_number_of_topics():
    alone = terms_of(RMU(layer=1, steering_coefficient=1.0), ("b",))[0][0].control_D
    both = terms_of(RMU(layer=1, steering_coefficient=1.0), ("a", "b"))[0][0].control_D
    assert both.shape == (2, 32) and torch.equal(both[1], alone)


def test_uniform_directions_of_two_topics_have_a_cosine_near_three_quarters_and_normal_ones_near_none():
    def mean(distribution):
        pairs = ([control_direction(1024, seed, topic, distribution) for topic in ("a", "b")] for seed in range(200))
        return statistics.fmean(float(a @ b) for a, b in pairs)

    assert mean("uniform") == pytest.approx(0.75, abs=0.02) and mean("normal") == pytest.approx(0.0, abs=0.02)


def test_rows_of_each_topic_are_steered_to_its_own_vector(make_llama):
    """Four rows about two topics: the mean over rows is half of each topic's own loss."""
    model, step = selected(make_llama(layers=6)), batch()
    lengths = {"a": 2.0, "b": 9.0}
    terms, context = terms_of(R2MU(layer=LAYER, steering_coefficient=lengths), ("a", "b"))
    values = Engine(model, terms)(step, count_units(terms, step), range(4))["values"]
    for index, role in ((0, "forget"), (1, "trace")):
        expected = []
        for row in range(4):
            topic = "ab"[row % 2]
            tensors = {name: value[row : row + 1] for name, value in step[role].items()}
            kept = tensors["attention_mask"][0] == 1
            if role == "trace":  # the words that ask for the trace are left out, but for the last, which predicts its first
                kept &= torch.arange(len(kept)) >= 1
            state = hidden(model, tensors)[0, kept]
            expected.append(
                F.mse_loss(state, (lengths[topic] * control_direction(32, 0, topic, "uniform")).expand_as(state)).item()
            )
        assert float(values[index]) == pytest.approx(statistics.fmean(expected), rel=1e-5)
    cosine = float(control_direction(32, 0, "a", "uniform") @ control_direction(32, 0, "b", "uniform"))
    assert context.facts["cosine_between_topics"] == {"a b": round(cosine, 4)}
    assert context.facts["steering_length"] == lengths and context.facts["topics"] == ["a", "b"]


@pytest.mark.parametrize(
    ("lengths", "match"),
    [
        ({"a": 1.0, "b": 2.0, "c": 3.0}, r"'c' is no topic of a forget source \(topics: a, b\)"),
        ({"a": 1.0}, "'b' is a topic without a length"),
    ],
)
def test_lengths_that_do_not_fit_the_topics_are_named(lengths, match):
    with pytest.raises(DataError, match=match):
        terms_of(RMU(layer=1, steering_coefficient=lengths), ("a", "b"))


@pytest.mark.parametrize("length", ["auto:x", "auto:0", "twice:2", -1.0, {"a": "adaptive:2", "b": 3.0}, {"a": "auto:-1"}])
def test_a_length_that_is_none_is_refused(length):
    with pytest.raises((RecipeError, ValueError), match="steering_coefficient"):
        method = {"name": "r2mu", "steering_coefficient": length}
        from_dict({"model": {"path": "x"}, "data": {}, "method": method, "train": {"steps": 1}})


def test_a_trace_about_no_forgotten_topic_is_refused():
    method = R2MU(layer=1, steering_coefficient=1.0)
    context = sketched_context(width=8, topics_of=lambda role: ["a", "b"] if role == "forget" else ["a", "z"])
    with pytest.raises(DataError, match=r"data.trace: has rows about the topic 'z', and data.forget has none.*a, b"):
        method.terms(context)
