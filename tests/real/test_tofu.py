"""TOFU (200 invented authors, 4,000 question and answer pairs): readers, contract and unlearning on the real files."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from temper import unlearn
from temper.data import check_overlap, encode, read
from temper.errors import DataError
from temper.recipe import DataSource, WorldSection, from_dict
from tests.data.tokenizers import make_tokenizer

WORLD = WorldSection()
PLAIN = {"prompt": "question", "response": "answer", "template": "plain", "plain_format": "Question: {prompt}\nAnswer: "}


def source(path, **settings):
    return DataSource(path=str(path), **{**PLAIN, **settings})


@pytest.fixture(scope="module")
def tofu(real_data):
    return real_data / "tofu"


@pytest.fixture(scope="module")
def tokenizer(tofu):
    rows = read(source(tofu / "full.json"), WORLD)
    return make_tokenizer(corpus=[f"{row['question']} {row['answer']}" for row in rows[::4]], vocabulary=2000)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("full.json", 4000),
        ("forget01.json", 40),
        ("forget05.json", 200),
        ("forget10.json", 400),
        ("forget10_perturbed.json", 400),
        ("retain_perturbed.json", 400),
        ("real_authors.json", 100),
        ("world_facts.json", 117),
        ("refusals.jsonl", 100),
    ],
)
def test_every_file_has_its_published_number_of_rows_with_names_of_their_own(tofu, name, count):
    # the refusals are plain text under the ending of JSON Lines
    rows = read(source(tofu / name, format="text" if name == "refusals.jsonl" else "auto"), WORLD)
    assert len(rows) == len({row["id"] for row in rows}) == count


def test_perturbed_answers_keep_their_lists(tofu):
    rows = read(source(tofu / "forget10_perturbed.json"), WORLD)
    assert all(len(row["perturbed_answer"]) == 5 for row in rows)


def test_the_contract_holds_on_all_rows(tofu, tokenizer):
    rows = read(source(tofu / "full.json"), WORLD)
    encoded = encode(rows, tokenizer, source(tofu / "full.json"), max_length=1024, overflow="error", where="tofu")
    assert len(encoded.items) == 4000 and not encoded.dropped
    for item in encoded.items:
        scored = [label for label in item.labels if label != -100]
        assert item.input_ids[0] == tokenizer.bos_token_id and item.labels[0] == -100
        assert item.input_ids[-1] == scored[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(scored[:-1]).strip() == item.row["answer"].strip()
        assert tokenizer.decode(item.input_ids) == f"<s>Question: {item.row['question']}\nAnswer: {item.row['answer']}</s>"


def test_the_forget_split_inside_the_full_data_is_found(tofu, tokenizer):
    parts = {
        name: encode(
            read(source(tofu / name, **cut), WORLD), tokenizer, source(tofu / name), max_length=1024, overflow="error", where=name
        )
        for name, cut in {"full.json": {}, "forget01.json": {}}.items()
    }
    with pytest.raises(DataError, match="40 of 40 forget rows stand in the retain data too"):
        check_overlap(parts["forget01.json"], parts["full.json"], False)
    kept = encode(
        read(source(tofu / "full.json", limit=3960), WORLD),
        tokenizer,
        source(tofu / "full.json"),
        max_length=1024,
        overflow="error",
        where="retain99",
    )
    assert check_overlap(parts["forget01.json"], kept, False).exact == 0


@pytest.fixture(scope="module")
def model_folder(tofu, tokenizer, tmp_path_factory):
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tofu-model")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "method",
    [
        {"name": "npo"},
        {"name": "graddiff"},
        {"name": "rmu", "layer": 1},
        {"name": "po", "alternatives": {"refusals": {"file": "{tofu}/refusals.jsonl", "response_format": "{refusal}"}}},
        {"name": "dpo", "alternatives": {"refusals": {"file": "{tofu}/refusals.jsonl", "response_format": "{refusal}"}}},
    ],
    ids=["npo", "graddiff", "rmu", "po", "dpo"],
)
def test_unlearning_runs_on_the_real_split(tofu, model_folder, tmp_path, method):
    method = json.loads(json.dumps(method).replace("{tofu}", str(tofu)))
    recipe = from_dict(
        {
            "name": "tofu-forget01",
            "model": {"path": str(model_folder)},
            "data": {
                "forget": {"path": str(tofu / "forget01.json"), **PLAIN},
                "retain": {"path": str(tofu / "full.json"), "limit": 3960, **PLAIN},
            },
            "method": method,
            "train": {"steps": 3, "batch_size": 4, "learning_rate": 1.0e-3, "log_every": 1},
        }
    )
    run = unlearn.run(recipe, tmp_path / "run")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run / "model"), AutoTokenizer.from_pretrained(run / "model")
    assert model(**tokenizer("Question: Who", return_tensors="pt")).logits.isfinite().all()
    before, after = load_file(model_folder / "model.safetensors"), load_file(run / "model" / "model.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    if method["name"] == "rmu":
        above = [name for name in before if "layers.2." in name]
        assert above and all(torch.equal(before[name], after[name]) for name in above)
