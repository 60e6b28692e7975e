"""A small model that has memorised 200 questions and answers, half of them to forget: what WAGLE's behaviour is measured on.

    question    <bos> q ? a            100 questions to forget, 100 to retain, 20 answers, each of them ten times; a is scored

The loop is plain torch around `MaskedOptimizer`, as a user without recipes would write it. A run is one of GradDiff,

    L = -NLL(forget batch) + NLL(retain batch),

until the mean forget loss has passed a level; the retain loss at the level is read on the line between the steps on both sides.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch

from temper.data import Item
from temper.draws import generator
from temper.train.masked import masked_adamw
from temper.unlearn.attribution.making import choices_of, scores_of

HALF, ANSWERS, WIDTH, LAYERS = 100, 20, 32, 2
VOCABULARY = 4 + 2 * HALF + ANSWERS
LEVEL, RATE, BATCH, STEPS = 2.0, 1.0e-3, 20, 100


def facts():
    """Return the items to forget and those to retain."""
    answers = generator(0, "memorised").permutation([number % ANSWERS for number in range(2 * HALF)]).tolist()
    rows = [(1, 4 + number, 3, 4 + 2 * HALF + answer) for number, answer in enumerate(answers)]
    items = [
        Item(id=f"{number}", input_ids=ids, labels=(-100, -100, -100, ids[3]), row={}, prompt="", response="")
        for number, ids in enumerate(rows)
    ]
    return items[:HALF], items[HALF:]


def _padded(items):
    return torch.tensor([item.input_ids for item in items]), torch.tensor([item.labels for item in items])


def loss_of(model, items):
    """Return the mean loss over the scored tokens of some items, which have one length."""
    ids, labels = _padded(items)
    return model(input_ids=ids, labels=labels, use_cache=False).loss


@functools.cache
def weights():
    """Return the weights of a model that has memorised everything."""
    model = new_model()
    items = [item for part in facts() for item in part]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0e-2, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0e-2, total_steps=60)
    for _ in range(60):
        optimizer.zero_grad()
        loss_of(model, items).backward()
        optimizer.step()
        schedule.step()
    return {name: value.clone() for name, value in model.state_dict().items()}


def new_model():
    """Return a model with random weights, the same ones each time."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=8, tie_word_embeddings=True, initializer_range=0.2, bos_token_id=1,
        eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config)


def trained_model():
    """Return a model that has memorised everything."""
    model = new_model()
    model.load_state_dict(weights())
    return model.eval()


def masks_of(model, selection, seed):
    """Return the masks of a scored selection for all parameters; None where everything trains."""
    if selection is None:
        return None
    forget, retain = facts()
    order = generator(seed, "scored").permutation(HALF).tolist()
    items = {"forget": forget, "retain": [retain[place] for place in order[: HALF // 2]]}
    with tempfile.TemporaryDirectory() as folder:
        scores = scores_of(selection, model, items, pad_id=0, seed=seed, folder=Path(folder))
        (choice,) = choices_of(selection, scores, model, [selection.ratio]).values()
        return {name: choice[name] for name in choice}


def unlearn(selection, seed, rate=None):
    """Return the model, its masks, the steps and the retain loss at the level; None for both where the level was not passed.

    Args:
        selection: A scored selection; None trains everything.
        seed: Of the order of rows, and of random masks.
        rate: The learning rate; when left out `RATE` divided by the root of the share that trains.
    """
    model = trained_model()
    masks = masks_of(model, selection, seed)
    share = 1.0 if selection is None else selection.ratio
    optimizer = masked_adamw(list(model.named_parameters()), masks, lr=RATE * share**-0.5 if rate is None else rate)
    optimizer.attach(model)
    forget, retain = facts()
    before = _read(model, forget, retain)
    for step in range(1, STEPS + 1):
        draw = generator(seed, "step", step)
        chosen = [[part[place] for place in draw.permutation(HALF)[:BATCH]] for part in (forget, retain)]
        (loss_of(model, chosen[1]) - loss_of(model, chosen[0])).backward()
        optimizer.clip_gradients(1.0)
        optimizer.step()
        optimizer.zero_grad()
        now = _read(model, forget, retain)
        if now[0] >= LEVEL:
            part = (LEVEL - before[0]) / (now[0] - before[0])
            optimizer.detach()
            return model, masks, step - 1 + part, (1 - part) * before[1] + part * now[1]
        before = now
    optimizer.detach()
    return model, masks, None, None


@torch.no_grad()
def _read(model, forget, retain):
    return loss_of(model, forget).item(), loss_of(model, retain).item()
