"""Every objective with every kind of selection and with and without a smoother: two steps each on a tiny model."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from temper import registry, unlearn
from temper.draws import torch_generator
from temper.models.masks import load_masks, save_masks
from temper.unlearn.planning import plan
from tests.unlearn.models import recipe_for, write_world

OBJECTIVES = registry.names("objective")
SELECTIONS = ("all", "lora", "pattern", "mask", "rows")
SCORES = ("wagle", "wagle_product", "magnitude", "gradient", "snip", "wanda", "random")
SMOOTHERS = (None, "sam")
KEPT_ROWS = 80.0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("matrix")


@pytest.fixture
def folder(place, make_llama):
    """Return a folder with model and data, made once."""
    if not (place / "mask.safetensors").exists():
        write_world(place, make_llama)
        model = make_llama(layers=3, vocab=json.loads((place / "model" / "config.json").read_text())["vocab_size"])
        draw = torch_generator(0, "mask")
        masks = {name: torch.rand(p.shape, generator=draw) < 0.1 for name, p in model.named_parameters()}
        save_masks(place / "mask.safetensors", masks, model)
    return place


def selection_of(kind, folder):
    return {
        "all": "all",
        "lora": {"lora": 2},
        "pattern": {"pattern": r"layers\.[01]\.mlp\.down_proj"},
        "mask": {"mask": {"path": str(folder / "mask.safetensors"), "drop_unread": True}},
        "rows": {"rows": KEPT_ROWS},
        "scored_lora": {"lora": {"rank": 2, "by": {"wagle": 0.2}}},
        **{name: {name: 0.2} for name in SCORES},
    }[kind]


def run_one(folder, out, objective, selection="all", smoother=None, **changes):
    train = {"steps": 2, "checkpoint_every": 0, "weight_decay": 0.1}
    recipe = recipe_for(
        folder, method=objective, selection=selection_of(selection, folder), smoother=smoother, train=train, **changes
    )
    return unlearn.run(recipe, out)


def with_scored_rows(folder, kind):
    """Return the data that a score reads whether or not the objective does."""
    roles = ("forget", "retain") if kind in ("wagle", "wagle_product", "scored_lora") else ("forget",)
    return {"data": {role: {"path": str(folder / f"{role}.jsonl")} for role in roles}}


def trained(run):
    """Return the weights of every model that the run trained."""
    folders = [run / name for name in ("reinforced", "model") if (run / name).is_dir()]
    return [load_file(folder / "model.safetensors") for folder in folders]


def losses(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "train"]


def outside(kind, run, folder, make_llama, before):
    """Return which entries of each tensor may not change; of rows, only how many may is known beforehand."""
    if kind == "all":
        return {}
    if kind in ("lora", "scored_lora"):
        return {name: torch.ones_like(t, dtype=torch.bool) for name, t in before.items() if "_proj" not in name}
    if kind == "pattern":
        return {
            name: torch.ones_like(t, dtype=torch.bool)
            for name, t in before.items()
            if "down_proj" not in name or "layers.2" in name
        }
    if kind in ("mask", *SCORES):
        model = make_llama(layers=3, vocab=len(before["lm_head.weight"]))
        masks = load_masks((folder if kind == "mask" else run) / "mask.safetensors", model)
        return {name: ~masks[name] if name in masks else torch.ones_like(t, dtype=torch.bool) for name, t in before.items()}
    return {name: torch.ones_like(t, dtype=torch.bool) for name, t in before.items() if t.dim() != 2}


def check(run, kind, folder, make_llama):
    before = load_file(folder / "model" / "model.safetensors")
    fixed = outside(kind, run, folder, make_llama, before)
    for after in trained(run):
        assert before.keys() == after.keys()
        changed = {name: before[name] != after[name] for name in before}
        assert any(bool(where.any()) for where in changed.values()), "something moved"
        assert [name for name in fixed if bool((changed[name] & fixed[name]).any())] == []
        if kind == "rows":
            rows = [where.any(dim=1) for where in changed.values() if where.dim() == 2]
            assert sum(int(each.sum()) for each in rows) <= math.ceil((1 - KEPT_ROWS / 100) * sum(len(each) for each in rows))
    found = losses(run)
    assert len(found) in (2, 4) and all(map(math.isfinite, found))  # four where a second model is distilled


def combinations(objective, first):
    """Return half the product for an objective: each selection once, both smoothers; the other half has the others."""
    number = OBJECTIVES.index(objective)
    return [(kind, SMOOTHERS[(number + place + first) % 2]) for place, kind in enumerate(SELECTIONS)]


def test_the_two_halves_of_the_matrix_are_the_whole_product():
    halves = [{(name, *pair) for name in OBJECTIVES for pair in combinations(name, first)} for first in (0, 1)]
    assert len(halves[0] | halves[1]) == len(OBJECTIVES) * len(SELECTIONS) * len(SMOOTHERS)
    for half in halves:
        assert {(name, smoother) for name, _, smoother in half} == {(name, s) for name in OBJECTIVES for s in SMOOTHERS}
        assert {(kind, smoother) for _, kind, smoother in half} == {(kind, s) for kind in SELECTIONS for s in SMOOTHERS}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_trains_what_is_selected_and_nothing_else(folder, tmp_path, make_llama, objective):
    for kind, smoother in combinations(objective, 0):
        check(run_one(folder, tmp_path / kind, objective, kind, smoother), kind, folder, make_llama)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_other_half_of_the_matrix(folder, tmp_path, make_llama, objective):
    for kind, smoother in combinations(objective, 1):
        check(run_one(folder, tmp_path / kind, objective, kind, smoother), kind, folder, make_llama)


def check_scored(folder, out, make_llama, objective, kind, smoother=None):
    check(run_one(folder, out, objective, kind, smoother, **with_scored_rows(folder, kind)), kind, folder, make_llama)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_trains_what_a_score_selects_and_nothing_else(folder, tmp_path, make_llama, objective):
    kinds = (*SCORES, "scored_lora")
    check_scored(folder, tmp_path / "run", make_llama, objective, kinds[OBJECTIVES.index(objective) % len(kinds)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*SCORES, "scored_lora"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_goes_with_every_score(folder, tmp_path, make_llama, objective, kind):
    for smoother in SMOOTHERS:
        check_scored(folder, tmp_path / str(smoother), make_llama, objective, kind, smoother)


@pytest.mark.parametrize("term", ["nll", "kl", "embed", "ap", "none"])
def test_every_retain_term_goes_with_full_weights_and_with_an_adapter(folder, tmp_path, make_llama, term):
    method = {"name": "simnpo", "retain_term": term, **({"retain_layer": 1} if term == "embed" else {})}
    for kind in ("all", "lora"):
        check(run_one(folder, tmp_path / kind, method, kind), kind, folder, make_llama)


@pytest.mark.parametrize("form", ["batch_mean", "npo_muse_compat"])
def test_the_other_forms_of_npo_train(folder, tmp_path, make_llama, form):
    check(run_one(folder, tmp_path / "run", {"name": "npo", "form": form}), "all", folder, make_llama)


@pytest.mark.parametrize("length", ["adaptive:2", 6.5])
def test_the_other_lengths_of_steering_train(folder, tmp_path, make_llama, length):
    method = {"name": "rmu", "layer": 1, "steering_coefficient": length}
    check(run_one(folder, tmp_path / "run", method, "pattern"), "pattern", folder, make_llama)


@pytest.mark.parametrize("smoother", ["rs", "gp", "cr", {"wa": {"start": 1, "every": 1}}, {"sam": {"adaptive": True}}])
def test_every_smoother_keeps_to_the_selection(folder, tmp_path, make_llama, smoother):
    for objective, kind in (("npo", "mask"), ("rmu", "lora")):
        check(run_one(folder, tmp_path / kind, objective, kind, smoother), kind, folder, make_llama)


@pytest.mark.parametrize("kind", ["all", "lora", "pattern", "snip"])
@pytest.mark.parametrize("objective", ["npo", "rmu", "task_vector"])
def test_the_plan_and_the_record_of_a_run_agree(folder, tmp_path, objective, kind):
    train = {"steps": 2, "checkpoint_every": 0, "weight_decay": 0.1}
    recipe = recipe_for(folder, method=objective, selection=selection_of(kind, folder), train=train)
    facts = plan(recipe).facts
    record = json.loads((run_one(folder, tmp_path / "run", objective, kind) / "manifest.json").read_text())["stages"]["unlearn"]
    assert facts["parameters"] == record["parameters"]
    assert facts["trained_parameters"] == record["trained_parameters"]
    assert facts["steps"] == record["spent"]["steps"]
