"""R2MU through whole runs, from data on disk to saved weights: parity with a plain loop, topics, what is read and what is kept."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from temper import unlearn
from temper.errors import DataError, RecipeError
from temper.models.delta import apply_delta
from temper.unlearn.planning import plan
from temper.unlearn.prepare import prepare
from temper.unlearn.rmu import control_direction
from temper.unlearn.training import load_to_train
from tests.unlearn.models import PEOPLE, TOWNS, recipe_for, write_rows, write_world
from tests.unlearn.test_r2mu import LAYER, NAMES, TRAINED, plain_training

SELECTION = {"layers": {"layers": TRAINED, "module": "mlp.down_proj"}}
TOPICS = ("bio", "cyber")


@pytest.fixture
def folder(tmp_path, make_llama):
    """Return a world with sources about two topics: bio.jsonl, cyber.jsonl, and traces about each."""
    write_world(tmp_path, make_llama, layers=6)
    traces = (tmp_path / "trace.jsonl").read_text().splitlines(keepends=True)
    for number, topic in enumerate(TOPICS):
        half = slice(2 * number, 2 * number + 2)
        write_rows(tmp_path / f"{topic}.jsonl", PEOPLE[half], TOWNS[half])
        (tmp_path / f"{topic}-trace.jsonl").write_text("".join(traces[half]))
    return tmp_path


def about(folder, ending=""):
    return [{"path": str(folder / f"{topic}{ending}.jsonl"), "topic": topic} for topic in TOPICS]


def both_topics(folder, **more):
    return {"forget": about(folder), "trace": about(folder, "-trace"), **more}


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def record(run):
    return json.loads((run / "manifest.json").read_text())["stages"]["unlearn"]


def lines(run):
    found = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in found if line["event"] == "train"]


# ---- the whole run against a plain loop ----


def padded(items):
    length = max(len(item.input_ids) for item in items)
    ids = torch.tensor([[*item.input_ids, *[0] * (length - len(item.input_ids))] for item in items])
    mask = torch.tensor([[1] * len(item.input_ids) + [0] * (length - len(item.input_ids)) for item in items])
    return {"input_ids": ids, "attention_mask": mask}


def test_a_run_with_the_reference_preset_trains_like_two_whole_models(folder):
    """Topics take turns, padding counts, AdamW decays and nothing is clipped, as in the released script."""
    recipe = recipe_for(
        folder,
        method={"name": "r2mu", "preset": "reference", "layer": LAYER},
        data=both_topics(folder),
        selection=SELECTION,
        train={"steps": 5, "batch_size": 2, "learning_rate": 7.5e-5, "weight_decay": 0.01, "max_grad_norm": 0.0},
    )
    prepared = prepare(recipe)
    batches, controls = [], []
    for step in range(5):
        chosen = {
            role: [found.items[prepared.pairs[2 * step + row][role]] for row in range(2)] for role, found in prepared.rows.items()
        }
        topic = TOPICS[step % 2]
        assert {item.topic for role in ("forget", "trace") for item in chosen[role]} == {topic}
        batches.append({role: padded(items) for role, items in chosen.items()})
        controls.append(6.5 * control_direction(32, recipe.seed, topic, "uniform"))
    plain = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    losses = plain_training(plain, batches, controls)
    run = unlearn.run(recipe, folder / "run")
    before, after = load_file(folder / "model" / "model.safetensors"), weights(run)
    expected = {name: parameter.detach() for name, parameter in plain.named_parameters()}
    assert [name for name in before if not torch.equal(before[name], after[name])] == NAMES
    assert max((after[name] - expected[name]).abs().max().item() for name in after) <= 1e-6
    assert min((after[name] - before[name]).abs().max().item() for name in NAMES) > 1e-4
    assert [line["loss"] for line in lines(run)] == pytest.approx(losses, rel=1e-5)


# ---- limits ----


def test_with_both_weights_zero_a_run_is_that_of_rmu_bit_for_bit(folder):
    shared = {"layer": LAYER, "steering_coefficient": 6.5, "retain_weight": 2.0, "mask": "answer"}
    train = {"steps": 8, "weight_decay": 0.1}
    zero = {"name": "r2mu", "trace_weight": 0.0, "reasoning_weight": 0.0}
    one, two = (
        unlearn.run(recipe_for(folder, method={**name, **shared}, train=train), folder / name["name"])
        for name in (zero, {"name": "rmu"})
    )
    after, other = weights(one), weights(two)
    assert after.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in after.items())
    assert lines(one)[-1]["loss"] == lines(two)[-1]["loss"]


def test_a_role_of_weight_zero_keeps_its_data_in_the_recipe_and_is_not_read(folder):
    data = {role: {"path": str(folder / f"{role}.jsonl")} for role in ("forget", "retain", "trace")}
    missing = {**data, "reasoning": {"path": str(folder / "no-such-file.jsonl")}}
    method = {"name": "r2mu", "layer": LAYER, "reasoning_weight": 0.0}
    run = unlearn.run(recipe_for(folder, method=method, data=missing), folder / "run")
    assert sorted(record(run)["reads_of_a_row"]) == ["retain", "trace"]  # forget is the anchor
    assert not [name for name in lines(run)[0] if name.startswith("reasoning")]
    other = unlearn.run(recipe_for(folder, method=method, data=data), folder / "without")
    assert all(torch.equal(value, weights(other)[name]) for name, value in weights(run).items())


def test_data_of_a_role_that_no_setting_reads_is_refused(folder):
    data = {"forget": {"path": str(folder / "forget.jsonl")}, "general": {"path": str(folder / "retain.jsonl")}}
    with pytest.raises(RecipeError, match="data.general: objective r2mu does not read it"):
        unlearn.run(recipe_for(folder, method="r2mu", data=data), folder / "run")


# ---- topics ----


@torch.no_grad()
def distance(path, items, topic, seed=0, length=6.5):
    """Return the mean over rows of the mean square distance of their states to the vector of a topic."""
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    control = length * control_direction(32, seed, topic, "uniform")
    found = []
    for item in items:
        states = model(input_ids=torch.tensor([item.input_ids]), output_hidden_states=True).hidden_states[LAYER + 1][0]
        found.append((states - control).pow(2).mean())
    return float(torch.stack(found).mean())


@pytest.mark.parametrize("order", ["mixed", "alternate"])
def test_a_run_over_two_topics_steers_the_rows_of_both(folder, order):
    recipe = recipe_for(
        folder,
        method={"name": "r2mu", "layer": LAYER, "steering_coefficient": 6.5, "topic_order": order},
        data=both_topics(folder),
        selection=SELECTION,
        train={"steps": 30, "learning_rate": 3.0e-3},
    )
    rows = prepare(recipe).rows
    run = unlearn.run(recipe, folder / "run")
    for topic in TOPICS:
        items = [item for item in rows["forget"].items if item.topic == topic]
        assert distance(run / "model", items, topic) < 0.9 * distance(folder / "model", items, topic)
    cosine = float(control_direction(32, 0, "bio", "uniform") @ control_direction(32, 0, "cyber", "uniform"))
    facts = record(run)
    assert facts["cosine_between_topics"] == {"bio cyber": round(cosine, 4)} and facts["topics"] == list(TOPICS)
    assert (facts["mask"], facts["trace_mask"], facts["retain_mask"], facts["reasoning_mask"]) == (
        "nonpad",
        "answer",
        "nonpad",
        "nonpad",
    )


def test_each_topic_can_have_a_length_of_its_own(folder):
    lengths = {"bio": "auto:2", "cyber": 5.0}
    method = {"name": "r2mu", "layer": LAYER, "steering_coefficient": lengths}
    facts = record(unlearn.run(recipe_for(folder, method=method, data=both_topics(folder)), folder / "run"))
    assert facts["steering_length"]["cyber"] == 5.0
    assert facts["steering_length"]["bio"] == pytest.approx(2 * facts["median_token_norm"]["bio"])
    assert list(facts["median_token_norm"]) == ["bio"], "a number asks for no norm"


@pytest.mark.parametrize(
    ("method", "trace", "match"),
    [
        ({"steering_coefficient": {"bio": 1.0, "chem": 2.0}}, TOPICS, "'chem' is no topic of a forget source"),
        ({"steering_coefficient": {"bio": 1.0}}, TOPICS, "'cyber' is a topic without a length"),
        ({}, ("bio", "chem"), "data.trace: has rows about the topic 'chem', and data.forget has none"),
        ({}, ("default",), "data.trace: has rows about the topic 'default', and data.forget has none"),
        ({"topic_order": "alternate"}, ("bio",), "data.trace: has no rows about the topic 'cyber'; its topics: bio"),
    ],
)
def test_topics_that_do_not_fit_are_named(folder, method, trace, match):
    sources = [{"path": str(folder / "trace.jsonl"), "topic": topic} for topic in trace]
    recipe = recipe_for(
        folder, method={"name": "r2mu", "layer": LAYER, **method}, data={"forget": about(folder), "trace": sources}
    )
    with pytest.raises(DataError, match=match):
        unlearn.run(recipe, folder / "run")
    assert not (folder / "run" / "model").exists()


# ---- data, weights and files ----


def test_sources_of_reasoning_are_drawn_by_weight(folder):
    sources = [{"path": str(folder / "reasoning.jsonl"), "weight": 3.0}, {"path": str(folder / "retain.jsonl"), "weight": 1.0}]
    recipe = recipe_for(folder, method="r2mu", data={"reasoning": sources}, train={"steps": 50, "batch_size": 8})
    prepared = prepare(recipe)
    found = prepared.rows["reasoning"]
    of_source = [found.source_of[prepared.pairs[index]["reasoning"]] for index in range(len(prepared.pairs))]
    assert of_source.count(0) == pytest.approx(300, abs=2) and of_source.count(1) == pytest.approx(100, abs=2)


def test_only_the_blocks_that_are_read_are_loaded_and_written_back_whole(folder):
    recipe = recipe_for(
        folder, method={"name": "r2mu", "layer": 2}, selection={"layers": {"layers": [0, 1], "module": "mlp.down_proj"}}
    )
    model = load_to_train(recipe, prepare(recipe))
    assert len(model.model.layers) == 3 and not [name for name, _ in model.named_parameters() if "lm_head" in name]
    facts = plan(recipe).facts
    assert facts["trained_parameters"] == 2 * 32 * 64 and facts["parameters_loaded"] < facts["parameters"]
    run = unlearn.run(recipe, folder / "run")
    before, after = load_file(folder / "model" / "model.safetensors"), weights(run)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert before.keys() == after.keys()
    assert changed == [f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1)]


def test_a_delta_holds_the_selected_tensors_and_gives_the_model_of_the_run(folder):
    recipe = recipe_for(folder, method={"name": "r2mu", "layer": LAYER}, selection=SELECTION, save="delta")
    run = unlearn.run(recipe, folder / "run")
    stored = [file for file in (run / "delta").iterdir() if file.suffix == ".safetensors"]
    with safe_open(stored[0], "pt") as opened:
        assert len(stored) == 1 and sorted(opened.keys()) == NAMES
    made = apply_delta(run / "delta", folder / "model", folder / "made")
    again = load_file(made / "model.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in weights(run).items())


def test_an_adapter_is_merged_into_the_saved_model(folder):
    recipe = recipe_for(folder, method={"name": "r2mu", "layer": LAYER}, selection={"lora": {"rank": 2, "target": ["down_proj"]}})
    run = unlearn.run(recipe, folder / "run")
    before, after = load_file(folder / "model" / "model.safetensors"), weights(run)
    assert [name for name in before if not torch.equal(before[name], after[name])] == [
        f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(LAYER + 1)
    ]
    assert (run / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("mode", ["store", "recompute"])
def test_stored_and_recomputed_activations_train_alike(folder, mode):
    """The first step of either has anchors of nothing; the last one not."""
    train = {"reference": mode, "steps": 6, "learning_rate": 1.0e-3}
    run = unlearn.run(
        recipe_for(folder, method={"name": "r2mu", "layer": LAYER}, selection=SELECTION, train=train), folder / mode
    )
    first, last = lines(run)[0], lines(run)[-1]
    for role in ("retain", "reasoning"):
        assert first[f"{role}.anchor"] == pytest.approx(0.0, abs=1e-9) and last[f"{role}.anchor"] > 1e-7
    other = unlearn.run(
        recipe_for(folder, method={"name": "r2mu", "layer": LAYER}, selection=SELECTION, train={**train, "reference": "auto"}),
        folder / "auto",
    )
    assert max((value - weights(other)[name]).abs().max().item() for name, value in weights(run).items()) <= 1e-6


def test_fewer_reasoning_rows_than_steps_come_again_and_the_plan_says_how_often(folder):
    recipe = recipe_for(folder, method={"name": "r2mu", "layer": LAYER}, train={"steps": 10, "batch_size": 2})
    facts = plan(recipe)
    assert facts.facts["reads_of_a_row"]["reasoning"] == pytest.approx(20 / 5)
    assert any("reasoning: 5 rows" in line and "each is read 4.0 times" in line for line in facts.lines)
    assert record(unlearn.run(recipe, folder / "run"))["reads_of_a_row"]["reasoning"] == pytest.approx(4.0)


def test_words_of_the_penalty_that_are_no_token_are_recorded_and_none_at_all_is_refused(folder):
    method = {"name": "rmu_rtp", "layer": 1, "words": ["<think>", "Unimaginable"]}
    facts = record(unlearn.run(recipe_for(folder, method=method), folder / "run"))
    assert facts["reflection_words"] == ["<think>"] and facts["reflection_words_without_token"] == ["Unimaginable"]
    with pytest.raises(DataError, match="method.words: none of them is one token of this model"):
        unlearn.run(recipe_for(folder, method={**method, "words": ["Unimaginable"]}), folder / "none")


# ---- what a reader of the plan must know, and what is refused ----


def test_a_forget_topic_without_traces_is_refused_also_where_topics_mix(folder):
    data = both_topics(folder, trace=about(folder, "-trace")[:1])
    with pytest.raises(DataError, match="data.trace: has no rows about the topic 'cyber', which data.forget has"):
        unlearn.run(recipe_for(folder, method="r2mu", data=data), folder / "run")


def test_traces_about_another_topic_than_the_only_one_are_refused(folder):
    data = {"forget": about(folder)[:1], "trace": about(folder, "-trace")[1:]}
    with pytest.raises(DataError, match="data.trace: has rows about the topic 'cyber', and data.forget has none"):
        unlearn.run(recipe_for(folder, method="r2mu", data=data), folder / "run")
    plain = {"forget": about(folder)[:1], "trace": {"path": str(folder / "trace.jsonl")}}
    assert (unlearn.run(recipe_for(folder, method="r2mu", data=plain), folder / "plain") / "model").is_dir()


def test_epochs_are_refused_where_topics_take_turns(folder):
    recipe = recipe_for(
        folder,
        method={"name": "r2mu", "layer": 1, "topic_order": "alternate"},
        data=both_topics(folder),
        train={"steps": None, "epochs": 1.0},
    )
    with pytest.raises(RecipeError, match="train.epochs: topics take turns"):
        prepare(recipe)


def test_the_reads_of_a_role_are_those_of_its_most_read_source(folder):
    write_rows(folder / "one.jsonl", PEOPLE[:1], TOWNS[:1])
    reasoning = [{"path": str(folder / "reasoning.jsonl")}, {"path": str(folder / "one.jsonl")}]
    recipe = recipe_for(folder, method="r2mu", data={"reasoning": reasoning}, train={"steps": 6, "batch_size": 4})
    prepared = prepare(recipe)
    drawn = [prepared.rows["reasoning"].source_of[prepared.pairs[index]["reasoning"]] for index in range(24)]
    assert prepared.reads()["reasoning"] == max(drawn.count(1) / 1, round(drawn.count(0) / 4, 2)) >= 10
    assert any("reasoning" in line and "is read" in line for line in plan(recipe).lines)


def test_a_finished_run_makes_nothing_again(folder, monkeypatch):
    trace = {
        "path": str(folder / "forget.jsonl"),
        "provider": {"traces": {"max_new_tokens": 8, "min_trace_tokens": 1, "until": "end"}},
    }
    recipe = recipe_for(folder, method="r2mu", data={"trace": trace})
    monkeypatch.setenv("TEMPER_CACHE", str(folder / "first"))
    run = unlearn.run(recipe, folder / "run")
    monkeypatch.setenv("TEMPER_CACHE", str(folder / "second"))
    assert unlearn.run(recipe, folder / "run") == run
    assert not (folder / "second" / "made").exists()
