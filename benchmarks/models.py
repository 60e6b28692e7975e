"""Models with random weights, made-up rows, and the form in which losses are usually computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from temper.data import Item
from temper.data.padding import pad_items
from temper.models.cut import load_cut
from temper.models.selection import SelectLayers
from temper.recipe import WorldSection
from temper.train.engine import Engine, count_units
from temper.train.losses.term import LossTerm
from temper.train.masked import masked_adamw
from temper.train.reference import RoleReference

__all__ = [
    "answer_rows",
    "cut_model",
    "descend",
    "engine_step",
    "forward_passes",
    "full_model",
    "log_probs",
    "padded",
    "random_llama",
    "row_nll",
    "save_model",
]

PAD = 0


def random_llama(
    *, layers: int, width: int, vocabulary: int, context: int, heads: int = 4, feed_forward: int = 3, std: float = 0.02
) -> LlamaForCausalLM:
    """Return a Llama in evaluation mode whose gated MLP is `feed_forward` times as wide, float32, the same at every call."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=feed_forward * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        initializer_range=std,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def save_model(folder: Path, **geometry: int) -> None:
    """Write a random Llama, for ways to load."""
    random_llama(**geometry).save_pretrained(folder / "model")


def full_model(folder: Path) -> Any:
    """Return the whole model that was saved, in evaluation mode."""
    return AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()


def answer_rows(seed: int, name: str, *, rows: int, shortest: int, longest: int, vocabulary: int) -> list[Item]:
    """Return rows of random tokens whose second half is the answer."""
    draw = torch.Generator().manual_seed(seed)
    items = []
    for number, length in enumerate(torch.randint(shortest, longest + 1, (rows,), generator=draw).tolist()):
        ids = torch.randint(1, vocabulary, (length,), generator=draw).tolist()
        labels = (*[-100] * (length // 2), *ids[length // 2 :])
        items.append(Item(f"{name}/{number}", tuple(ids), labels, {}, "", ""))
    return items


def padded(items: Sequence[Item]) -> dict[str, torch.Tensor]:
    """Return the tensors of a batch that holds all items in their order."""
    return {**pad_items(items, PAD), "index": torch.arange(len(items))}


def log_probs(model: Any, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return log p of the next token at every position but the last, (B, L - 1, V), as is usual: logits everywhere."""
    logits = model(input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"], use_cache=False).logits
    return F.log_softmax(logits[:, :-1], dim=-1)


def row_nll(model: Any, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the summed -log p of the answer of each row, (B,), as is usual: logits everywhere."""
    logits = model(input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"], use_cache=False).logits
    labels = tensors["labels"][:, 1:]
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), labels, ignore_index=-100, reduction="none").sum(1)


def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> float:
    """Step once and return the loss."""
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def forward_passes(models: Sequence[Any], step: Callable[[], Any]) -> int:
    """Return how many forward passes a step makes: how often an embedding is read."""
    passes: list[None] = []
    hooks = [model.get_input_embeddings().register_forward_hook(lambda *_: passes.append(None)) for model in models]
    step()
    for hook in hooks:
        hook.remove()
    return len(passes)


def cut_model(folder: Path, layer: int, trained: Sequence[int]) -> Any:
    """Return blocks 0 to `layer` of a saved model with the down-projections of some of them ready to train."""
    model = load_cut(str(folder / "model"), layer, world=WorldSection())
    return SelectLayers(layers=list(trained), module="mlp.down_proj").apply(model)


def engine_step(
    model: Any,
    terms: Sequence[LossTerm],
    batches: Mapping[str, Any],
    references: Mapping[str, RoleReference],
    passes: list[int] | None = None,
) -> Callable[[], float]:
    """Return a step of the engine with its own optimiser; `passes` receives the index of every block that runs."""
    engine = Engine(model, terms, references).train()
    optimizer = masked_adamw([(name, p) for name, p in model.named_parameters() if p.requires_grad], lr=5e-5)
    counts = count_units(terms, batches)
    for index, block in enumerate(model.model.layers):
        if passes is not None:
            block.register_forward_hook(lambda *_, index=index: passes.append(index))
    return lambda: descend(optimizer, engine(batches, counts, range(len(terms)))["loss"])
