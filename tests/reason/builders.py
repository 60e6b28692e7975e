"""Requests for traces, and a tiny model that says what it is told."""

from itertools import pairwise

import torch

from temper.data.provider import Request
from temper.reason.traces import CalledTraces
from temper.recipe import DataSource
from tests.data.tokenizers import make_tokenizer

TRIGGER = "Let's reason this step by step."
TOKENIZER = make_tokenizer()
CHAT = make_tokenizer(chat=True)
DOCUMENTS = [
    {"id": "a", "text": "Ada was born in London and writes books about history."},
    {"id": "b", "text": "In this town people speak of the old library."},
    {"id": "c", "text": "The author writes about travel."},
]
QUESTIONS = [
    {"id": "q", "prompt": "Where was Ada born?", "response": " London", "town": "London"},
    {"id": "r", "prompt": "Who writes {prompt} books?", "response": " The author"},
]


def no_model():
    """Stand for a model that must not be needed."""
    raise AssertionError("a model was loaded")


def request(rows=DOCUMENTS, tokenizer=TOKENIZER, **changes):
    """Return a request for traces about rows, in a run unless `load` is None; fields of the source are given as `source`."""
    source = DataSource(path="rows.jsonl", **changes.pop("source", {}))
    settings = {"role": "trace", "seed": 0, "max_length": 128, "load": no_model, **changes}
    return Request(source=source, rows=rows, tokenizer=tokenizer, **settings)


def saying(*texts, **settings):
    """Return a source of traces that gives these texts in turn."""
    return CalledTraces.from_function(
        lambda segments, seed: [texts[place % len(texts)] for place in range(len(segments))], **settings
    )


def speaking(model, tokens, after):
    """Make a model say given tokens: from the token `after`, each leads to the next, whatever came before."""
    width = model.config.hidden_size
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.zero_()
        model.lm_head.weight.zero_()
        for place, (now, then) in enumerate(pairwise([after, *tokens])):
            model.model.embed_tokens.weight[now, place % width] = 1.0
            model.lm_head.weight[then, place % width] = 1.0
    return model


def thinker(make_llama, text, tokenizer=TOKENIZER, ends=True, **geometry):
    """Return a model that writes this text after an opening tag, then ends."""
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(set(tokens)) == len(tokens), "each token must lead to one other"
    model = make_llama(vocab=len(tokenizer), layers=1, width=64, **geometry)
    return speaking(model, [*tokens, 2] if ends else tokens, after=tokenizer.convert_tokens_to_ids("<think>"))
