"""What makes a training exact: accumulation, order of rows, records, and state for what trains alone."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from temper import registry, unlearn
from temper.errors import RecipeError, RunError
from temper.unlearn.prepare import prepare
from tests.unlearn.models import PEOPLE, TOWNS, recipe_for, write_world

METHODS = {
    **{name: name for name in registry.names("objective")},
    # with its own β the loss of a fresh model is 0 to seven digits
    "simnpo": {"name": "simnpo", "beta": 0.5},
    "satimp": {"name": "satimp", "beta_saturation": 1.0, "beta_importance": 0.5},
    "npo and kl": {"name": "npo", "retain_term": "kl"},
    "npo and embed": {"name": "npo", "retain_term": "embed", "retain_layer": 1},
    "me and ap": {"name": "me", "retain_term": "ap"},
    "rmu, adaptive": {"name": "rmu", "layer": 1, "steering_coefficient": "adaptive:2", "mask": "answer"},
}


@pytest.fixture
def folder(tmp_path, make_llama):
    """Return a folder whose rows have very unequal lengths."""
    write_world(tmp_path, make_llama)
    for name, people, towns in (("forget", PEOPLE[:4], TOWNS[:4]), ("retain", PEOPLE[4:], TOWNS[4:])):
        rows = [
            {"id": f"{name}{n}", "prompt": f"Where was {who} born?", "response": f" In {where}." + " Yes." * (5 * n)}
            for n, (who, where) in enumerate(zip(people, towns, strict=True))
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def lines(run):
    found = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in found if line["event"] == "train"]


def numbers(run):
    return [{key: value for key, value in line.items() if key not in ("time", "event")} for line in lines(run)]


def split(folder, method, out, size, **changes):
    train = {"batch_size": size, "accumulation": 4 // size, "steps": 3, "learning_rate": 1.0e-4, "checkpoint_every": 0}
    return unlearn.run(recipe_for(folder, method=method, train={**train, **changes.pop("train", {})}, **changes), out)


# ---- accumulation ----


QUICK = ("npo", "graddiff", "rmu", "dpo", "undial", "pdu", "npo and embed")


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in METHODS])
def test_four_micro_batches_of_one_train_like_one_of_four(folder, name):
    one, four = (split(folder, METHODS[name], folder / str(size), size) for size in (4, 1))
    assert len(lines(one)) == len(lines(four)) in (3, 6)
    for first, second in zip(numbers(one), numbers(four), strict=True):
        # Adam makes a full step of a gradient that is rounding alone, and the anchor of RMU is steep
        near = {"grad_norm": 5e-2}
        assert first == {key: pytest.approx(value, rel=near.get(key, 2e-3), abs=2e-4) for key, value in second.items()}
    # before any weight has moved only the order of sums differs
    assert lines(one)[0]["loss"] == pytest.approx(lines(four)[0]["loss"], rel=1e-5, abs=1e-6)
    assert lines(one)[0]["grad_norm"] == pytest.approx(lines(four)[0]["grad_norm"], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("smoother", ["sam", "gp", "cr", {"wa": {"start": 1, "every": 1}}])
@pytest.mark.parametrize("method", ["npo", "graddiff"])
def test_a_smoothed_step_does_not_depend_on_how_it_is_split(folder, method, smoother):
    one, four = (split(folder, method, folder / str(size), size, smoother=smoother) for size in (4, 1))
    for first, second in zip(numbers(one), numbers(four), strict=True):
        assert first == {key: pytest.approx(value, rel=5e-3, abs=5e-4) for key, value in second.items()}


@pytest.mark.parametrize("grouping", [0, 8])
def test_the_rows_of_a_step_do_not_depend_on_how_it_is_split(folder, grouping):
    found = []
    for size in (4, 2, 1):
        train = {"batch_size": size, "accumulation": 4 // size, "steps": 6, "length_grouping": grouping}
        pairs = prepare(recipe_for(folder, train=train)).pairs
        found.append([pairs[index] for index in range(len(pairs))])
    assert found[0] == found[1] == found[2]


def test_the_tokens_of_a_run_do_not_depend_on_how_its_steps_are_split(folder):
    spent = [
        json.loads((split(folder, "npo", folder / str(size), size) / "manifest.json").read_text())["stages"]["unlearn"]["spent"]
        for size in (4, 2, 1)
    ]
    assert len({part["tokens"] for part in spent}) == 1
    encoded = prepare(recipe_for(folder)).rows
    # three steps of four rows: every row of both roles three times
    assert spent[0]["tokens"] == 3 * sum(len(item.input_ids) for rows in encoded.values() for item in rows.items)


# ---- determinism ----


@pytest.mark.parametrize("changes", [{}, {"smoother": "rs"}, {"selection": {"lora": {"rank": 2, "dropout": 0.2}}}])
def test_the_same_seed_gives_the_same_losses_and_bits(folder, changes):
    runs = [split(folder, "dpo", folder / name, 2, seed=seed, **changes) for seed, name in ((0, "a"), (0, "b"), (1, "c"))]
    assert numbers(runs[0]) == numbers(runs[1]) != numbers(runs[2])
    one, two = weights(runs[0]), weights(runs[1])
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_random_state_of_the_caller_does_not_matter(folder):
    traces = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        traces.append(numbers(split(folder, "npo", folder / str(seed), 2, selection={"lora": {"rank": 2, "dropout": 0.2}})))
    assert traces[0] == traces[1]


# ---- records ----


def test_a_line_of_the_log_is_the_mean_of_its_steps(folder):
    each = split(folder, "npo", folder / "each", 2, train={"steps": 6})
    pairs = split(folder, "npo", folder / "pairs", 2, train={"steps": 6, "log_every": 2})
    assert [line["step"] for line in lines(pairs)] == [2, 4, 6]
    for key in ("loss", "forget.npo", "retain.nll"):
        singles = [line[key] for line in lines(each)]
        expected = [(singles[n] + singles[n + 1]) / 2 for n in (0, 2, 4)]
        assert [line[key] for line in lines(pairs)] == pytest.approx(expected, rel=1e-5, abs=2e-6)


def test_the_loss_of_a_line_is_the_weighted_sum_of_its_terms(folder):
    method = {"name": "npo", "forget_weight": 0.5, "retain_weight": 3.0}
    for line in lines(split(folder, method, folder / "run", 1)):
        assert line["loss"] == pytest.approx(0.5 * line["forget.npo"] + 3.0 * line["retain.nll"], rel=1e-5, abs=1e-5)


def test_progress_counts_up_to_the_steps_of_the_run(folder):
    seen = []
    recipe = recipe_for(folder, train={"steps": 5})
    unlearn.run(recipe, folder / "run", progress=lambda stage, done, total, note="": seen.append((stage, done, total)))
    assert [entry[1:] for entry in seen if entry[0] == "train"] == [(n, 5) for n in range(1, 6)]


# ---- recomputed activations ----


@pytest.mark.parametrize(
    "changes",
    [
        {"selection": {"lora": 2}},
        {"selection": {"lora": {"rank": 2, "dora": True}}},
        {"method": {"name": "rmu", "layer": 1}, "selection": {"pattern": "down_proj"}},
        {"method": {"name": "npo", "retain_term": "embed", "retain_layer": 1}, "smoother": "sam"},
    ],
    ids=str,
)
def test_recomputing_activations_changes_no_loss(folder, changes):
    method = changes.get("method", "npo")
    rest = {key: value for key, value in changes.items() if key != "method"}
    runs = [
        split(folder, method, folder / str(checkpointing), 4, train={"checkpointing": checkpointing}, **rest)
        for checkpointing in (False, True)
    ]
    losses = [[line["loss"] for line in lines(run)] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# ---- state of the optimiser ----


def stored_bytes(run):
    file = sorted((run / "checkpoints").glob("checkpoint-*"))[-1] / "optimizer.safetensors"
    return sum(tensor.numel() * tensor.element_size() for tensor in load_file(file).values())


def test_the_optimiser_holds_state_for_the_selected_weights_alone(folder):
    selection = {"layers": {"layers": [1], "module": "mlp.down_proj"}}
    run = split(folder, "npo", folder / "run", 2, selection=selection, train={"checkpoint_every": 3})
    assert 8 * 32 * 64 <= stored_bytes(run) <= 8 * 32 * 64 + 64


def test_the_optimiser_holds_state_for_the_selected_rows_alone(folder):
    run = split(folder, "npo", folder / "run", 2, selection={"rows": 90.0}, train={"checkpoint_every": 3})
    trained = json.loads((run / "manifest.json").read_text())["stages"]["unlearn"]["trained_parameters"]
    assert trained < 0.2 * sum(value.numel() for value in weights(run).values())
    assert 8 * trained <= stored_bytes(run) <= 8 * trained + 4096


# ---- clipping ----


def test_clipping_counts_the_selected_entries_alone(folder):
    """A tenth of the rows are selected; the norm that is logged is theirs, so it is smaller than that of all."""
    whole = split(folder, "graddiff", folder / "a", 4)
    part = split(folder, "graddiff", folder / "b", 4, selection={"rows": 99.0})
    assert 0 < lines(part)[0]["grad_norm"] < lines(whole)[0]["grad_norm"]


# ---- single weights that train ----


@pytest.fixture
def masked(folder):
    """Return the settings of a run that trains a tenth of all weights, some single and some whole rows, drawn at random."""
    from transformers import AutoModelForCausalLM

    from temper.models.masks import save_masks

    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    draw = torch.Generator().manual_seed(0)
    masks = {
        name: (torch.rand(p.shape if "mlp" in name else (len(p), 1), generator=draw) < 0.1).expand_as(p).contiguous()
        for name, p in model.named_parameters()
        if p.dim() == 2
    }
    save_masks(folder / "mask.safetensors", masks, model)
    return {"selection": {"mask": {"path": str(folder / "mask.safetensors")}}}, masks


def test_every_storage_trains_the_same_weights_and_no_other(folder, masked):
    settings, masks = masked
    before = load_file(folder / "model" / "model.safetensors")
    runs = [
        weights(split(folder, "npo", folder / storage, 2, train={"storage": storage, "steps": 5}, **settings))
        for storage in ("packed", "delta", "dense_compat")
    ]
    for run in runs:
        assert max((run[name] - runs[0][name]).abs().max().item() for name in run) <= 1e-6
        for name, value in run.items():
            mask = masks.get(name, torch.zeros(value.shape, dtype=torch.bool))
            assert torch.equal(value[~mask], before[name][~mask])
            if name.startswith("model.layers"):  # of the embeddings the tokens that occur
                assert not mask.any() or (value[mask] != before[name][mask]).float().mean() > 0.9


def test_packed_gradients_do_not_depend_on_how_a_step_is_split(folder, masked):
    one, four = (split(folder, "graddiff", folder / str(size), size, **masked[0]) for size in (4, 1))
    for first, second in zip(numbers(one), numbers(four), strict=True):
        assert first == {key: pytest.approx(value, rel=1e-3, abs=1e-4) for key, value in second.items()}


def test_one_role_at_a_time_packs_the_same_gradients(folder, masked):
    one, two = (split(folder, "graddiff", folder / way, 4, train={"passes": way}, **masked[0]) for way in ("merged", "by_role"))
    assert [line["grad_norm"] for line in lines(one)] == pytest.approx([line["grad_norm"] for line in lines(two)], rel=1e-4)


@pytest.mark.parametrize("method", [{"name": "klmin"}, {"name": "rmu", "layer": 1, "steering_coefficient": 2.0}], ids=str)
def test_differences_serve_as_the_model_from_before(folder, masked, method):
    """The losses read the model from before at every step: copies of what is selected, or the differences, give the same."""
    train = {"reference": "recompute", "learning_rate": 1e-3}
    found = []
    for storage in ("packed", "delta"):
        run = split(folder, method, folder / storage, 4, train={**train, "storage": storage}, **drop_unread(masked[0]))
        found.append(lines(run))
    assert [line["loss"] for line in found[0]] == pytest.approx([line["loss"] for line in found[1]], rel=1e-5)
    assert found[0][0]["loss"] != pytest.approx(found[0][-1]["loss"], rel=1e-5)


def drop_unread(settings):
    return {"selection": {"mask": {**settings["selection"]["mask"], "drop_unread": True}}}


@pytest.mark.parametrize("storage", [pytest.param("packed", marks=pytest.mark.slow), "delta"])
def test_a_run_over_single_weights_resumes_to_the_same_bits(folder, masked, storage):
    train = {"storage": storage, "steps": 4, "checkpoint_every": 2, "optimizer": "nadam"}
    run = split(folder, "klmin", folder / "run", 2, train={**train, "reference": "recompute"}, **masked[0])
    after = weights(run)
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["stages"]["unlearn"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "checkpoints" / "checkpoint-4")
    again = weights(split(folder, "klmin", folder / "run", 2, train={**train, "reference": "recompute"}, **masked[0]))
    assert "checkpoint-2" in (run / "log.jsonl").read_text()
    assert all(torch.equal(after[name], again[name]) for name in after)


def test_the_norm_of_dense_clipping_counts_every_weight(folder, masked):
    some, every = (
        lines(split(folder, "graddiff", folder / clip, 4, train={"clip": clip}, **masked[0])) for clip in ("masked", "dense")
    )
    assert some[0]["grad_norm"] < 0.6 * every[0]["grad_norm"]


RARE = ("adam", "rmsprop", "adamax", "nadam", "radam", "adadelta")


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", *(pytest.param(name, marks=pytest.mark.slow) for name in RARE)])
def test_any_elementwise_optimizer_trains_what_is_selected(folder, masked, optimizer):
    momentum = {"momentum": 0.9} if optimizer in ("sgd", "rmsprop") else {}
    before = load_file(folder / "model" / "model.safetensors")
    train = {"optimizer": optimizer, "learning_rate": 0.01, "steps": 2, "weight_decay": 0.1, **momentum}
    after = weights(split(folder, "npo", folder / "run", 4, train=train, **masked[0]))
    name = "model.layers.0.mlp.down_proj.weight"
    mask = masked[1][name]
    assert torch.equal(after[name][~mask], before[name][~mask]) and (after[name][mask] != before[name][mask]).all()


def test_dense_clipping_and_a_smoother_are_refused_together(folder, masked):
    with pytest.raises(RecipeError, match=r"train.clip: a smoother follows masked gradients.*Set it to masked"):
        split(folder, "npo", folder / "run", 4, train={"clip": "dense"}, smoother="sam", **masked[0])


def test_a_gradient_that_is_not_finite_names_the_step_and_the_parameter(folder, monkeypatch):
    from temper.train.losses.nll import NLL

    def broken(self, outputs, batch, cache, usual=NLL.__call__):
        value = usual(self, outputs, batch, cache)
        value.total.register_hook(lambda gradient: gradient * float("nan"))
        return value

    monkeypatch.setattr(NLL, "__call__", broken)
    with pytest.raises(RunError, match=r"infinite or NaN at step 1, first in model\.\S+weight"):
        split(folder, "graddiff", folder / "run", 4)
