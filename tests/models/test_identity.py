import json
import shutil

import pytest

from temper.models.load import model_identity, weights_hash
from temper.recipe import ModelSection, WorldSection
from tests.data.tokenizers import make_tokenizer


@pytest.fixture
def model(tmp_path, make_llama):
    tokenizer = make_tokenizer(chat=True)
    make_llama(layers=2, vocab=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def identity(folder, **section):
    return model_identity(ModelSection(path=str(folder), **section), WorldSection())


@pytest.mark.parametrize(
    ("file", "change"),
    [("config.json", {"rms_norm_eps": 0.5}), ("generation_config.json", {"eos_token_id": [2, 5]})],
)
def test_the_same_weights_with_another_configuration_are_another_model(model, tmp_path, file, change):
    other = shutil.copytree(model, tmp_path / "other")
    assert identity(other) == identity(model), "where a model lies does not matter"
    facts = json.loads((other / file).read_text())
    (other / file).write_text(json.dumps({**facts, **change}))
    assert weights_hash(other) == weights_hash(model)
    assert identity(other) != identity(model)


def test_how_a_model_is_loaded_tells_its_numbers_apart(model):
    assert len({identity(model), identity(model, dtype="bfloat16"), identity(model, attention="eager")}) == 3


def test_a_file_that_changed_is_read_again(model):
    before = weights_hash(model)
    path = model / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert weights_hash(model) != before
