"""What R2MU does on the test bed: reasoning collapses without its fourth term and is kept with it; means of three seeds."""

import statistics

import pytest

from temper import unlearn
from temper.recipe import from_dict
from tests.unlearn import testbed

SEEDS = (0, 1, 2)
WAYS = {
    "rmu": {"name": "rmu"},
    "v0": {"name": "r2mu", "reasoning_weight": 0.0},
    "sums": {"name": "r2mu", "reasoning_weight": 30.0},
    "mixed": {"name": "r2mu", "reasoning_weight": 30.0},
    "half": {"name": "r2mu", "reasoning_weight": 30.0},
}
STEPS = {"mixed": 800, "half": 400}
REASONING = {"sums": ["sums"], "mixed": ["sums", "traces"], "half": ["sums", "half"]}
"""What is held beside the retained documents."""


def recipe_for(way, seed, model, data):
    roles = {"forget": ["forget"], "retain": ["retain"]}
    if way != "rmu":
        roles["trace"] = ["trace"]
    if way in REASONING:
        roles["reasoning"] = REASONING[way]
    sources = {
        role: [{"path": str(data / f"{name}.jsonl"), "whole": "whole" if name == "trace" else None} for name in names]
        for role, names in roles.items()
    }
    method = {"layer": 3, "steering_coefficient": "auto:2", "retain_weight": 30.0, "mask": "nonpad", **WAYS[way]}
    return from_dict(
        {
            "name": way,
            "seed": seed,
            "model": {"path": str(model)},
            "data": sources,
            "method": method if way == "rmu" else {"trace_mask": "labelled", **method},
            "selection": {"layers": {"layers": [1, 2, 3], "module": "mlp.down_proj"}},
            "train": {
                "steps": STEPS.get(way, 150),
                "batch_size": 8,
                "learning_rate": 1.0e-3,
                "max_grad_norm": 0.0,
                "checkpoint_every": 0,
            },
        }
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Return way to its scores, one for each seed; `before` to those of the model from before."""
    place = tmp_path_factory.mktemp("testbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPER_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        model, data = testbed.trained_model(), testbed.write_data(place)
        found = {"before": [testbed.scores(model)]}
        for way in WAYS:
            runs = [unlearn.run(recipe_for(way, seed, model, data), place / f"{way}-{seed}") for seed in SEEDS]
            found[way] = [testbed.scores(run / "model") for run in runs]
    return found


def mean(found, score):
    return statistics.fmean(scores[score] for scores in found)


pytestmark = pytest.mark.slow


def test_the_model_from_before_knows_everything(measured):
    assert min(measured["before"][0].values()) >= 0.99


def test_without_preservation_reasoning_that_was_never_shown_collapses(measured):
    assert mean(measured["v0"], "held-out sums") <= 0.2


def test_with_preservation_sums_that_were_never_shown_are_kept(measured):
    assert mean(measured["sums"], "held-out sums") >= 0.95


def test_traces_do_not_say_the_group_and_the_answer_is_gone(measured):
    assert mean(measured["sums"], "group in forget trace") <= 0.10
    assert mean(measured["sums"], "forget answer") <= 0.35


def test_holding_traces_about_retained_things_keeps_their_answers_and_still_forgets(measured):
    assert mean(measured["mixed"], "retain answer") >= 0.95
    assert mean(measured["mixed"], "forget answer") <= 0.35
    assert mean(measured["mixed"], "held-out sums") >= 0.95


def test_holding_sums_alone_damages_the_answers_about_retained_things(measured):
    assert mean(measured["sums"], "retain answer") < mean(measured["mixed"], "retain answer") - 0.1


def test_of_retained_things_those_whose_traces_are_held_are_kept_best(measured):
    """With traces about half of them, the half that was never shown is damaged."""
    assert mean(measured["half"], "retain answer, first half") >= 0.95
    assert mean(measured["half"], "retain answer, other half") < mean(measured["half"], "retain answer, first half")
