"""Whole runs on every layout of checkpoint that this library reads and writes."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from temper import unlearn
from temper.models.delta import apply_delta
from tests.data.tokenizers import make_tokenizer
from tests.models.architectures import configuration
from tests.unlearn.models import recipe_for, write_world

QUICK = ("gpt2", "mixtral")


def marks(kind):
    found = [] if kind in QUICK else [pytest.mark.slow]
    if kind == "mixtral":
        # peft looks for adapters of routers and experts in every block; where the file has none they start at 0 and do nothing
        found.append(pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning"))
        found.append(pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys:RuntimeWarning"))
    return found


KINDS = [
    pytest.param(kind, marks=marks(kind))
    for kind in ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text", "phi3", "gpt2", "gpt_neox", "mixtral")
]
METHODS = ["npo", {"name": "rmu", "layer": 1}]


@pytest.fixture
def make(tmp_path, make_llama):
    """Return a function that writes a tiny model of a kind, in shards, with data beside it."""

    def write(kind):
        write_world(tmp_path, make_llama)
        tokenizer = make_tokenizer(chat=True)
        config = configuration(kind)
        config.vocab_size = len(tokenizer)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config)
        model.save_pretrained(tmp_path / kind, max_shard_size="40KB")
        tokenizer.save_pretrained(tmp_path / kind)
        return tmp_path

    return write


def run_on(folder, kind, **changes):
    train = {"steps": 2, "checkpoint_every": 0, "max_length": 60}
    return unlearn.run(recipe_for(folder, model={"path": str(folder / kind)}, train=train, **changes), folder / "run")


def state(path):
    return AutoModelForCausalLM.from_pretrained(path).state_dict()


def files(path):
    tensors = {}
    for file in path.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


@pytest.mark.parametrize("method", METHODS, ids=["npo", "rmu"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_on_the_base_says_what_the_merged_model_says(make, kind, method):
    folder = make(kind)
    run = run_on(folder, kind, method=method, selection={"lora": 2})
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder / kind), run / "adapter").eval()
    merged = AutoModelForCausalLM.from_pretrained(run / "model").eval()
    inputs = AutoTokenizer.from_pretrained(run / "model")("Where was Ada born?", return_tensors="pt")
    before = AutoModelForCausalLM.from_pretrained(folder / kind).eval()
    with torch.no_grad():
        ours, theirs, start = (model(**inputs).logits for model in (adapted, merged, before))
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    assert not torch.equal(theirs, start)


@pytest.mark.parametrize("method", METHODS, ids=["npo", "rmu"])
@pytest.mark.parametrize("selection", ["all", {"lora": 2}, {"rows": 90.0}, {"modules": ["down_proj"]}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_delta_on_its_base_is_the_model_of_the_run(make, kind, method, selection):
    folder = make(kind)
    run = run_on(folder, kind, method=method, selection=selection, save="delta")
    applied, saved, before = (
        state(path) for path in (apply_delta(run / "delta", folder / kind, folder / "applied"), run / "model", folder / kind)
    )
    assert [name for name in saved if not torch.equal(applied[name], saved[name])] == []
    changed = [name for name in saved if not torch.equal(before[name], saved[name])]
    assert changed and (selection == "all" or len(changed) < len(saved))


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_trunk_run_does_not_train_is_stored_byte_for_byte(make, kind):
    folder = make(kind)
    run = run_on(folder, kind, method={"name": "rmu", "layer": 1}, selection={"modules": ["down_proj"]})
    before, after = files(folder / kind), files(run / "model")
    assert before.keys() == after.keys()
    assert not [name for name in before if ".0." not in name and ".1." not in name and not torch.equal(before[name], after[name])]
