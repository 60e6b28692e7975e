"""Greedy continuations of prompts: what a model answers when it is asked.

Prompts are sorted by length and padded on the left, so that a batch holds little padding and every row continues at the
same column. The settings of generation are this module's own: a checkpoint's `generation_config` neither changes the
result nor is changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from temper.models.load import pad_id_of

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

__all__ = ["cut_at_end", "generate", "prompt_ids"]


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str | Sequence[int]]) -> list[list[int]]:
    """Return the token ids of prompts; one given as ids is taken as it is, one that writes its own begin token gets no second one."""
    begin = tokenizer.bos_token
    ids: list[list[int]] = [[] if isinstance(prompt, str) else list(prompt) for prompt in prompts]
    texts = {index: prompt for index, prompt in enumerate(prompts) if isinstance(prompt, str)}
    for has_begin in (True, False):
        chosen = [index for index, text in texts.items() if (begin is not None and text.startswith(begin)) is has_begin]
        if chosen:
            encoded = tokenizer(
                [texts[index] for index in chosen],
                add_special_tokens=not has_begin,
                return_attention_mask=False,
                verbose=False,
            )
            for index, row in zip(chosen, encoded["input_ids"], strict=True):
                ids[index] = _without_end(list(row), tokenizer.eos_token_id)
    return ids


def _without_end(ids: list[int], end: int | None) -> list[int]:
    """Drop end tokens that a tokenizer puts after every text: a prompt is not over."""
    while end is not None and len(ids) > 1 and ids[-1] == end:
        ids = ids[:-1]
    return ids


def cut_at_end(ids: Iterable[int], ends: frozenset[int], pad: int | None) -> list[int]:
    """Return the ids before the first end token, without padding.

    Example:
        >>> cut_at_end([5, 0, 6, 2, 7], frozenset({2}), 0)
        [5, 6]
    """
    kept = []
    for token in ids:
        if token in ends:
            break
        if token != pad:
            kept.append(token)
    return kept


def _ends_of(model: Any, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return every id that ends a reply: chat models often have one more than the tokenizer names."""
    named = getattr(model.generation_config, "eos_token_id", None)
    ids = {tokenizer.eos_token_id, *(named if isinstance(named, list | tuple) else [named])}
    return frozenset(int(token) for token in ids if token is not None)


def _greedy(max_new_tokens: int, ends: frozenset[int], pad_id: int) -> GenerationConfig:
    """Return settings that are neutral where transformers would fill a gap from the checkpoint's own."""
    from transformers import GenerationConfig

    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        use_cache=True,
        pad_token_id=pad_id,
        eos_token_id=sorted(ends) or None,
    )


def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    seed: int = 0,
) -> list[str]:
    """Return the greedy continuation of each prompt, in the order of the prompts.

    Special tokens such as ``<think>`` stay in the text; the end token and padding do not.

    Args:
        model: A causal language model.
        tokenizer: With or without a pad token, a begin or an end token.
        prompts: Whole texts, rendered by a chat template or not.
        max_new_tokens: Where a continuation is cut at the latest.
        batch_size: Prompts at a time.
        seed: For decoders that draw; greedy decoding draws nothing and ignores it.
    """
    del seed
    ids = prompt_ids(tokenizer, prompts)
    pad_id, ends = pad_id_of(tokenizer), _ends_of(model, tokenizer)
    fill = tokenizer.pad_token_id  # only a true pad token may be taken out of a reply
    settings = _greedy(max_new_tokens, ends, pad_id)
    order = sorted((index for index in range(len(ids)) if ids[index]), key=lambda index: -len(ids[index]))
    texts = [""] * len(ids)
    device = next(iter(model.parameters())).device
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                width = len(ids[rows[0]])
                filled = [[pad_id] * (width - len(ids[index])) + ids[index] for index in rows]
                mask = [[0] * (width - len(ids[index])) + [1] * len(ids[index]) for index in rows]
                output_BL = model.generate(
                    input_ids=torch.tensor(filled, device=device),
                    attention_mask=torch.tensor(mask, device=device),
                    generation_config=settings,
                )
                for index, reply in zip(rows, output_BL[:, width:].tolist(), strict=True):
                    texts[index] = tokenizer.decode(
                        cut_at_end(reply, ends, fill), skip_special_tokens=False, clean_up_tokenization_spaces=False
                    )
    finally:
        model.train(was_training)
    return texts
