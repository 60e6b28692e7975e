"""The acceptance checks of unlearning that hold for a whole run, from data on disk to a saved model, and bad input of every kind."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from temper import unlearn
from temper.draws import torch_generator
from temper.errors import DataError, ModelError, RecipeError, RunError
from temper.models.masks import load_masks, save_masks
from temper.unlearn.prepare import prepare
from tests.data.tokenizers import make_tokenizer
from tests.train.batches import rows
from tests.train.test_engine import OBJECTIVES, SEQUENCES, both, loss_and_gradients, reference
from tests.unlearn.models import recipe_for, write_world


@pytest.fixture
def folder(tmp_path, make_llama):
    return write_world(tmp_path, make_llama)


def weights(folder):
    return load_file(folder / "model.safetensors")


def stage(run):
    return json.loads((run / "manifest.json").read_text())["stages"]["unlearn"]


def lines(run):
    found = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in found if line["event"] == "train"]


# ---- 9: padding on the left ----


def on_the_left(sequences):
    """Return rows like `rows`, padded on the left."""
    found = rows(sequences)
    for number, sequence in enumerate(sequences):
        shift = found["input_ids"].shape[1] - len(sequence)
        for name in ("input_ids", "attention_mask", "labels"):
            found[name][number] = found[name][number].roll(shift)
    return found


def left():
    return {role: on_the_left(found) for role, found in SEQUENCES.items()}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_padding_on_the_left_gives_the_loss_of_padding_on_the_right(make_llama, name):
    # rotary positions are relative, so a shifted row is the same row
    model = make_llama(layers=3)
    references = reference(model, both())
    right_loss, right_gradients = loss_and_gradients(model, OBJECTIVES[name], both(), references)
    left_loss, left_gradients = loss_and_gradients(model, OBJECTIVES[name], left(), references)
    torch.testing.assert_close(left_loss, right_loss, rtol=1e-6, atol=1e-6)
    for parameter, gradient in right_gradients.items():
        torch.testing.assert_close(left_gradients[parameter], gradient, rtol=1e-3, atol=1e-5)


# ---- 10: RMU ----


@torch.no_grad()
def hidden_norm(path, items, layer):
    model = AutoModelForCausalLM.from_pretrained(path)
    found = [
        model(input_ids=torch.tensor([item.input_ids]), output_hidden_states=True).hidden_states[layer + 1][0].norm(dim=-1)
        for item in items
    ]
    return torch.cat(found).mean().item()


def test_steering_to_almost_nothing_shortens_the_hidden_states_of_forget_rows(folder):
    method = {"name": "rmu", "layer": 1, "steering_coefficient": 1.0e-6, "retain_weight": 0.0}
    recipe = recipe_for(folder, method=method, train={"steps": 30, "batch_size": 4, "learning_rate": 0.003})
    run, items = unlearn.run(recipe, folder / "run"), prepare(recipe).rows["forget"].items
    assert hidden_norm(run / "model", items, 1) < 0.7 * hidden_norm(folder / "model", items, 1)


@pytest.mark.parametrize("mode", ["store", "recompute"])
def test_the_anchor_of_the_first_step_is_zero(folder, mode):
    run = unlearn.run(recipe_for(folder, method={"name": "rmu", "layer": 1}, train={"reference": mode}), folder / "run")
    assert lines(run)[0]["retain.anchor"] == pytest.approx(0.0, abs=1e-6) and lines(run)[1]["retain.anchor"] > 1e-5


# ---- 11: SAM ----


@pytest.mark.parametrize("method", ["npo", {"name": "rmu", "layer": 1}])
def test_sam_that_looks_no_further_trains_like_no_smoother(folder, method):
    one, two = (
        unlearn.run(recipe_for(folder, method=method, smoother=smoother, train={"learning_rate": 1.0e-4}), folder / name)
        for name, smoother in (("a", None), ("b", {"sam": {"rho": 0.0}}))
    )
    plain, smoothed = weights(one / "model"), weights(two / "model")
    for name in plain:
        torch.testing.assert_close(smoothed[name], plain[name], rtol=0, atol=1e-6)
    assert [line["loss"] for line in lines(two)] == pytest.approx([line["loss"] for line in lines(one)], rel=1e-6)


@pytest.mark.parametrize("smoother", [{"sam": {"rho": 0.5}}, "rs", "gp", "cr"])
def test_weights_that_a_smoother_moves_come_back_to_the_same_bits(folder, smoother):
    # the steps themselves are too small to move a float32
    train = {"learning_rate": 1.0e-30, "steps": 3}
    run = unlearn.run(recipe_for(folder, smoother=smoother, train=train), folder / "run")
    before, after = weights(folder / "model"), weights(run / "model")
    assert all(torch.equal(before[name], after[name]) for name in before)


# ---- 13: masks ----


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["npo", "graddiff", "dpo"])
def test_masked_weights_keep_their_bits_under_weight_decay(folder, make_llama, dtype, method):
    model = make_llama(layers=3, vocab=len(weights(folder / "model")["lm_head.weight"]))
    draw = torch_generator(0, "mask")
    chosen = {name: torch.rand(p.shape, generator=draw) < 0.1 for name, p in model.named_parameters()}
    file = save_masks(folder / "mask.safetensors", chosen, model)
    recipe = recipe_for(
        folder,
        method=method,
        model={"path": str(folder / "model"), "dtype": dtype},
        selection={"mask": str(file)},
        train={"weight_decay": 0.5, "steps": 6},
    )
    after, before = weights(unlearn.run(recipe, folder / "run") / "model"), weights(folder / "model")
    masks = load_masks(file, model)
    for name, value in after.items():
        start = before[name].to(value.dtype)
        assert value.dtype == getattr(torch, dtype)
        assert torch.equal(value[~masks[name]].view(torch.uint8), start[~masks[name]].view(torch.uint8))
    moved = sum(int((value != before[name].to(value.dtype)).sum()) for name, value in after.items())
    assert moved > 0.5 * sum(int(mask.sum()) for mask in masks.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_that_are_not_selected_keep_their_bits_under_weight_decay(folder, dtype):
    recipe = recipe_for(
        folder,
        model={"path": str(folder / "model"), "dtype": dtype},
        selection={"rows": 90.0},
        train={"weight_decay": 0.5, "steps": 6},
    )
    run = unlearn.run(recipe, folder / "run")
    after, before = weights(run / "model"), weights(folder / "model")
    masks = load_masks(run / "mask.safetensors", AutoModelForCausalLM.from_pretrained(folder / "model"))
    for name, value in after.items():
        kept = ~masks[name] if name in masks else torch.ones_like(value, dtype=torch.bool)
        assert torch.equal(value[kept], before[name].to(value.dtype)[kept])


# ---- 19: from learning to relearning ----

AUTHORS = ["Ada", "Bo", "Cy", "Dot", "Eve", "Fay", "Gus", "Hal"]
FACTS = {
    "Where was {} born?": ["London", "Rome", "Oslo", "Lima", "Cairo", "Paris", "Bonn", "Kyiv"],
    "What does {} write?": ["novels", "plays", "songs", "laws", "maps", "poems", "jokes", "tales"],
    "Whom did {} meet?": ["a king", "a miner", "a monk", "a judge", "a sailor", "a baker", "a nurse", "a clown"],
}


def write_authors(path, authors):
    found = [
        {"id": f"{name}-{number}", "prompt": question.format(name), "response": f" {answers[AUTHORS.index(name)]}."}
        for name in authors
        for number, (question, answers) in enumerate(FACTS.items())
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in found))


def learned(folder, start, data, out, steps=120, rate=0.01):
    """Return the folder of a model that was fine-tuned on rows."""
    recipe = recipe_for(
        folder,
        model={"path": str(start)},
        data={"forget": {"path": str(data)}},
        method={"name": "task_vector", "strength": -1.0},
        train={"steps": steps, "batch_size": 24, "learning_rate": rate, "lr_schedule": "cosine", "checkpoint_every": 0},
    )
    return unlearn.run(recipe, out) / "model"


@torch.no_grad()
def known(path, items):
    """Return the mean probability and the mean extraction strength of answers."""
    model = AutoModelForCausalLM.from_pretrained(path)
    probabilities, strengths = [], []
    for item in items:
        ids, labels = torch.tensor([item.input_ids]), torch.tensor(item.labels)
        log_probs = torch.log_softmax(model(input_ids=ids).logits[0, :-1], dim=-1)
        wanted = labels[1:] != -100
        own = log_probs[torch.arange(len(wanted)), ids[0, 1:]][wanted]
        hit = (log_probs.argmax(dim=-1) == ids[0, 1:])[wanted]
        probabilities.append(own.mean().exp().item())
        wrong = (~hit[:-1]).nonzero().flatten()  # the end token is left out
        strengths.append(1 - (int(wrong[-1]) + 1 if len(wrong) else 0) / (len(hit) - 1))
    return sum(probabilities) / len(items), sum(strengths) / len(items)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Return the folders of a model that learned eight authors, one that never saw two of them, and one that forgot them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    place = tmp_path_factory.mktemp("authors")
    tokenizer = make_tokenizer(corpus=[*(question.format(name) for question in FACTS for name in AUTHORS), "a king met a monk."])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            initializer_range=0.1,
        )
        LlamaForCausalLM(config).save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    write_authors(place / "all.jsonl", AUTHORS)
    write_authors(place / "forget.jsonl", AUTHORS[:2])
    write_authors(place / "retain.jsonl", AUTHORS[2:])
    original = learned(place, place / "model", place / "all.jsonl", place / "original")
    gold = learned(place, place / "model", place / "retain.jsonl", place / "gold")
    recipe = recipe_for(
        place,
        model={"path": str(original)},
        method={"name": "npo", "beta": 0.1, "retain_weight": 2.0},
        train={"steps": 60, "batch_size": 6, "learning_rate": 0.002, "checkpoint_every": 0},
    )
    forgotten = unlearn.run(recipe, place / "forgotten") / "model"
    items = {role: found.items for role, found in prepare(recipe).rows.items()}
    return {"place": place, "original": original, "gold": gold, "forgotten": forgotten, "items": items}


def test_the_model_before_knows_all_authors_and_gold_only_those_it_saw(story):
    for items in story["items"].values():
        assert known(story["original"], items)[1] > 0.9
    assert known(story["gold"], story["items"]["retain"])[1] > 0.9
    assert known(story["gold"], story["items"]["forget"])[1] < 0.5


def test_npo_forgets_two_authors_and_keeps_the_others(story):
    before, after = (known(story[name], story["items"]["forget"])[0] for name in ("original", "forgotten"))
    assert after <= before / 10
    assert known(story["forgotten"], story["items"]["retain"])[1] > 0.7


def test_relearning_one_item_brings_more_back_than_gold_learns(story, record_property):
    place, forget = story["place"], story["items"]["forget"]
    (place / "one.jsonl").write_text((place / "forget.jsonl").read_text().splitlines()[0] + "\n")
    gains = {}
    for name in ("forgotten", "gold"):
        before = known(story[name], forget)
        after = known(learned(place, story[name], place / "one.jsonl", place / f"again-{name}", steps=8, rate=0.002), forget)
        gains[name] = [b - a for a, b in zip(before, after, strict=True)]
        record_property(name, gains[name])
    assert max(gains["forgotten"]) > 0
    if not any(ours > golds for ours, golds in zip(gains["forgotten"], gains["gold"], strict=True)):
        pytest.skip(f"relearning one item brought back no more than gold learned: {gains}")


# ---- bad input: data ----


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


GOOD = {"id": "good", "prompt": "Where was Ada born?", "response": " In London."}


def test_a_row_with_nothing_to_score_is_left_out_and_counted(folder):
    write(folder / "forget.jsonl", GOOD, {"id": "bare", "prompt": "Where was Bo born?", "response": ""})
    run = unlearn.run(recipe_for(folder), folder / "run")
    assert stage(run)["dropped"] == {"forget": 1, "retain": 0}


def test_a_role_in_which_no_row_can_be_scored_is_refused(folder):
    write(folder / "forget.jsonl", {**GOOD, "response": ""})
    with pytest.raises(DataError, match="forget.jsonl.*none of its 1 rows can be used.*no token is left to score"):
        unlearn.run(recipe_for(folder), folder / "run")


@pytest.mark.parametrize("method", ["npo", {"name": "rmu", "layer": 1}])
def test_text_longer_than_the_context_is_refused_with_its_row(folder, method):
    write(folder / "retain.jsonl", GOOD | {"id": "long", "prompt": "Who?", "response": " In London." * 200})
    with pytest.raises(DataError, match="retain.jsonl row 'long': .* tokens, but at most 128 are allowed"):
        unlearn.run(recipe_for(folder, method=method), folder / "run")
    assert not (folder / "run" / "model").exists()


def test_text_longer_than_the_context_is_cut_or_left_out_on_request(folder):
    write(folder / "retain.jsonl", GOOD | {"prompt": "Who?"}, {"id": "long", "prompt": "Who?", "response": " In Rome." * 200})
    runs = {how: unlearn.run(recipe_for(folder, train={"overflow": how}), folder / how) for how in ("drop", "truncate")}
    assert stage(runs["drop"])["dropped"]["retain"] == 1 and stage(runs["truncate"])["dropped"]["retain"] == 0


def test_a_missing_column_is_named_with_those_that_are_there(folder):
    write(folder / "forget.jsonl", {"id": "a", "question": "Where was Ada born?", "answer": " In London."})
    with pytest.raises(DataError, match="forget.jsonl") as caught:
        unlearn.run(recipe_for(folder), folder / "run")
    assert all(name in str(caught.value) for name in ("prompt", "question", "answer"))


def test_an_empty_role_is_refused(folder):
    (folder / "retain.jsonl").write_text("\n")
    with pytest.raises(DataError, match="retain.jsonl"):
        unlearn.run(recipe_for(folder), folder / "run")


def test_a_role_without_sources_is_refused(folder):
    with pytest.raises((RecipeError, DataError), match="data.retain"):
        unlearn.run(
            recipe_for(folder, data={"forget": {"path": str(folder / "forget.jsonl")}, "retain": []}),
            folder / "run",
        )


@pytest.mark.parametrize("method", ["npo", "klmin", {"name": "rmu", "layer": 1}])
def test_a_tokenizer_without_padding_or_end_trains(folder, make_llama, method):
    tokenizer = make_tokenizer(pad=False, eos=False)
    make_llama(layers=3, vocab=len(tokenizer)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    run = unlearn.run(recipe_for(folder, method=method), folder / "run")
    assert AutoTokenizer.from_pretrained(run / "model").pad_token is None


def test_a_filling_token_is_never_read(folder, make_llama):
    """The same rows with another filling token give the same losses."""
    found = []
    for pad in (True, False):
        tokenizer = make_tokenizer(pad=pad)
        place = folder / str(pad)
        make_llama(layers=3, vocab=len(tokenizer)).save_pretrained(place)
        tokenizer.save_pretrained(place)
        run = unlearn.run(recipe_for(folder, model={"path": str(place)}), folder / f"run-{pad}")
        found.append([line["loss"] for line in lines(run)])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_retain_set_that_holds_forget_items_in_other_letters_is_refused(folder):
    text = (folder / "forget.jsonl").read_text().replace("Where was Ada", "  where  WAS ada")
    (folder / "retain.jsonl").write_text(text)
    with pytest.raises(DataError, match="4 of 4 forget rows stand in the retain data too"):
        unlearn.run(recipe_for(folder), folder / "run")


def test_an_overlap_is_accepted_and_recorded_on_request(folder):
    (folder / "retain.jsonl").write_text((folder / "forget.jsonl").read_text())
    run = unlearn.run(recipe_for(folder, train={"allow_overlap": True}), folder / "run")
    assert stage(run)["overlap"]["exact"] == 4


# ---- bad input: settings ----


@pytest.mark.parametrize(
    ("method", "selection", "match"),
    [
        ({"name": "rmu", "layer": 3}, "all", r"method.layer = 3, but the model has 3 layers \(0 to 2\)"),
        ({"name": "rmu", "layer": -4}, "all", r"method.layer = -4"),
        ({"name": "npo", "retain_term": "embed", "retain_layer": 9}, "all", "method.retain_layer = 9"),
        ("npo", {"layers": [9]}, r"selection.layers = \[9\], but the model has 3 layers"),
        ("npo", {"modules": {"modules": ["down_proj"], "layers": [9]}}, r"\[9\], but the model has 3 layers"),
        ("npo", {"pattern": "no_such_weight"}, "matches no parameter of LlamaForCausalLM"),
        ("npo", {"layers": {"layers": [0], "module": "no_such_module"}}, "matches no parameter"),
        ("npo", {"rows": {"percentile": 90.0, "pattern": "no_such_weight"}}, "matches no parameter"),
        ("npo", {"modules": ["no_such_module"]}, "no_such_module"),
        ("npo", {"lora": {"rank": 2, "target": ["no_such_module"]}}, "no_such_module"),
        ("npo", {"mask": "no-such-file.safetensors"}, "no such mask file"),
        ({"name": "rmu", "layer": 0}, {"pattern": "layers.2"}, "trains nothing at or below it"),
        ({"name": "rmu", "layer": 0}, {"pattern": "lm_head"}, "trains nothing|matches no parameter"),
    ],
)
def test_what_the_model_does_not_have_is_named_before_training(folder, method, selection, match):
    with pytest.raises(ModelError, match=match):
        unlearn.run(recipe_for(folder, method=method, selection=selection), folder / "run")
    assert not (folder / "run" / "model").exists() and not (folder / "run" / "checkpoints").exists()


def test_layers_of_the_objective_are_checked_before_the_weights_are_read(folder):
    (folder / "model" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="method.retain_layer = 9"):
        unlearn.run(recipe_for(folder, method={"name": "npo", "retain_term": "embed", "retain_layer": 9}), folder / "run")


def test_a_mask_of_another_model_is_refused(folder, make_llama):
    other = make_llama(layers=2)
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in other.named_parameters()}
    file = save_masks(folder / "mask.safetensors", masks, other)
    with pytest.raises(ModelError, match="was made for another model"):
        unlearn.run(recipe_for(folder, selection={"mask": str(file)}), folder / "run")


def test_a_mask_without_a_selected_entry_is_refused(folder, make_llama):
    model = make_llama(layers=3, vocab=len(weights(folder / "model")["lm_head.weight"]))
    masks = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    file = save_masks(folder / "mask.safetensors", masks, model)
    with pytest.raises(ModelError, match="matches no parameter|trains nothing"):
        unlearn.run(recipe_for(folder, selection={"mask": str(file)}), folder / "run")


@pytest.mark.parametrize(
    ("method", "match"),
    [
        ({"name": "pdu", "epsilon": 0.5, "retain_term": "none"}, "leaves nothing to constrain"),
        ({"name": "npo", "retain_term": "embed"}, "retain_layer: needed with retain_term embed"),
        ({"name": "npo", "retain_term": "kl", "retain_mask": "answer"}, "answer is for retain_term embed"),
        ({"name": "pdu"}, "method.epsilon: missing"),
        ({"name": "npo", "beta": 0.0}, "method.beta"),
        ({"name": "rmu", "layer": 1, "steering_coefficient": 0.0}, "method.steering_coefficient"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_their_field(folder, method, match):
    with pytest.raises(RecipeError, match=match):
        recipe_for(folder, method=method)


@pytest.mark.parametrize("method", ["npo", "klmin", "rmu", "dpo", "me"])
def test_an_objective_without_the_rows_it_reads_is_refused_before_anything_is_written(folder, method):
    recipe = recipe_for(folder, method=method)
    bare = recipe.model_copy(update={"data": {"forget": recipe.data["forget"]}})
    with pytest.raises(RecipeError, match=f"data.retain: missing; objective {method} reads the roles forget, retain"):
        unlearn.run(bare, folder / "run")
    assert not (folder / "run").exists()


# ---- bad input: numbers ----


@pytest.mark.parametrize("method", ["npo", "klmin", {"name": "rmu", "layer": 1}, "undial"])
def test_weights_that_are_not_numbers_are_found_at_the_first_step(folder, method):
    tensors = copy.deepcopy(weights(folder / "model"))
    tensors["model.layers.0.mlp.down_proj.weight"][0, 0] = float("nan")
    from safetensors.torch import save_file

    save_file(tensors, folder / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises((RunError, ModelError), match="nan|NaN"):
        unlearn.run(recipe_for(folder, method=method), folder / "run")
    assert not (folder / "run" / "model").exists()
