"""Shared by all tests: no network, one thread, tiny real models built on the spot."""

import gc
import os
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch, request):
    """Keep tests out of the user's cache; worlds that tests build are shared by the session."""
    if "real_cache" in request.fixturenames:
        return
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    with warnings.catch_warnings():
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _few_objects_to_collect():
    """Take what the libraries made out of the collector's sight: a trainer collects twice a run, half a second each."""
    import peft
    import transformers.trainer  # noqa: F401

    assert peft.LoraConfig
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def make_llama():
    """Return a factory of tiny random Llamas, float32, in evaluation mode."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(layers=2, width=32, heads=4, vocab=64, context=128, seed=0, tie=False, std=0.2):
        config = LlamaConfig(
            vocab_size=vocab,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=context,
            tie_word_embeddings=tie,
            initializer_range=std,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return LlamaForCausalLM(config).eval()

    return make
