"""What the plan shows of an objective."""

import dataclasses

import pytest

from temper.recipe import named_settings
from temper.unlearn import planning
from temper.unlearn.planning import acting
from tests.unlearn.models import recipe_for, write_world


def shown(name, **settings):
    return set(acting(named_settings("objective", {"name": name, **settings})))


def test_fields_that_nothing_reads_are_left_out():
    assert not shown("r2mu") & {"alternatives", "retain_beta", "close_tag", "preset", "retain_layer"}
    assert {"layer", "mask", "trace_mask", "retain_mask", "reasoning_mask", "trace_weight"} <= shown("r2mu")
    assert not shown("npo") & {"alternatives", "retain_mask", "close_tag"}


@pytest.mark.parametrize(
    ("name", "settings", "field"),
    [
        ("dpo", {}, "alternatives"),
        ("npo", {"retain_term": "ap"}, "retain_beta"),
        ("npo", {"retain_term": "ap"}, "alternatives"),
        ("npo", {"retain_term": "kl"}, "retain_mask"),
        ("rmu", {"mask": "final"}, "close_tag"),
        ("r2mu", {"trace_mask": "final"}, "close_tag"),
        ("r2mu", {"preset": "reference"}, "preset"),
    ],
)
def test_fields_that_act_are_shown(name, settings, field):
    assert field in shown(name, **settings)


def test_a_term_without_weight_has_no_mask():
    assert not shown("r2mu", reasoning_weight=0.0, trace_weight=0.0) & {"trace_mask", "reasoning_mask"}
    assert "retain_weight" not in shown("npo", retain_term="none")


def test_what_a_provider_has_to_say_is_printed(tmp_path, make_llama, monkeypatch):
    write_world(tmp_path, make_llama)
    real = planning.prepare
    made = {"trace": [{"provider": "traces", "note": "no trace closes"}, {"provider": "traces"}]}
    monkeypatch.setattr(planning, "prepare", lambda recipe: dataclasses.replace(real(recipe), provided=made))
    lines = planning.plan(recipe_for(tmp_path)).lines
    assert [line.split(maxsplit=1)[1] for line in lines if line.startswith("made ")] == ["trace: no trace closes"]
    assert any(line.startswith("objective    npo (") and "alternatives" not in line for line in lines)
