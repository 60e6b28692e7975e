"""Continuations of prompts, greedy or drawn: what a model answers when it is asked.

Prompts are sorted by length and padded on the left, so that a batch holds little padding and every row continues at the
same column. The settings of generation are this module's own: a checkpoint's `generation_config` neither changes the
result nor is changed.

A drawn token is argmax(z/T + g) with Gumbel noise g, which has exactly the distribution softmax(z/T). The noise of every
token is a function of (seed, prompt, number of the sample, step), so samples depend neither on the size and the order of
batches nor on what else is asked. Source: Maddison et al., A* sampling (2014).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from temper.draws import generator
from temper.errors import InputError
from temper.files import hash_json
from temper.models.load import pad_id_of

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

__all__ = ["cut_at_end", "cut_at_stop", "generate", "prompt_ids", "sample"]


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
    return _texts(tokenizer, _replies(model, tokenizer, prompt_ids(tokenizer, prompts), max_new_tokens, batch_size))


def sample(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Sequence[int]],
    *,
    samples: int,
    temperature: float,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    stop: Sequence[str] = (),
) -> list[list[str]]:
    """Return drawn continuations of each prompt, in the order of the prompts.

    Args:
        model: A causal language model.
        tokenizer: With or without a pad token, a begin or an end token.
        prompts: Whole texts or their ids. One that occurs twice gets other samples the second time.
        samples: Continuations a prompt.
        temperature: T > 0; 1 draws from the model's own distribution.
        max_new_tokens: Where a continuation is cut at the latest.
        batch_size: Continuations at a time.
        seed: Of the draws.
        stop: A continuation ends before the first of these texts, which it does not hold.

    Raises:
        InputError: `samples` is below 1, the temperature is not above 0, or a stop text is empty.
    """
    if samples < 1:
        raise InputError(f"samples = {samples}: must be at least 1")
    if not (math.isfinite(temperature) and temperature > 0):
        raise InputError(
            f"temperature = {temperature}: must be a finite number above 0. For the most likely continuation, decode greedily."
        )
    if isinstance(stop, str) or "" in stop:
        raise InputError(f"stop = {stop!r}: must be a list of texts that are not empty")
    ids = prompt_ids(tokenizer, prompts)
    keys = _prompt_keys(ids)
    ends, fill = _ends_of(model, tokenizer), tokenizer.pad_token_id

    def guided(rows: Sequence[int], width: int) -> dict[str, Any]:
        from transformers import LogitsProcessorList, StoppingCriteriaList

        row_keys = [(*keys[row // samples], row % samples) for row in rows]
        guides: dict[str, Any] = {"logits_processor": LogitsProcessorList([_GumbelNoise(seed, row_keys, width, temperature)])}
        if stop:
            guides["stopping_criteria"] = StoppingCriteriaList([_StopTexts(tokenizer, stop, width, ends, fill)])
        return guides

    copies = [row for row in ids for _ in range(samples)]
    replies = _replies(model, tokenizer, copies, max_new_tokens, batch_size, guided)
    texts = [cut_at_stop(text, stop) for text in _texts(tokenizer, replies)]
    return [texts[start : start + samples] for start in range(0, len(texts), samples)]


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """Return what stands before the first stop text.

    Example:
        >>> cut_at_stop("Paris. Q: and then? Question:", ["Question:", "Q:"])
        'Paris. '
    """
    return text[: min((place for word in stop if (place := text.find(word)) >= 0), default=len(text))]


def _prompt_keys(ids: Sequence[Sequence[int]]) -> list[tuple[str, int]]:
    """Return a name for each prompt that does not depend on its place: its content, and how often it came before."""
    seen: Counter[str] = Counter()
    keys = []
    for row in ids:
        content = hash_json(list(row))
        keys.append((content, seen[content]))
        seen[content] += 1
    return keys


class _GumbelNoise:
    """A logits processor that makes the greedy choice an exact draw from softmax(z/T).

    Args:
        seed: Of all draws.
        keys: One a row of the batch.
        width: Columns of the prompts.
        temperature: T.
    """

    def __init__(self, seed: int, keys: Sequence[tuple[str, int, int]], width: int, temperature: float) -> None:
        self._seed = seed
        self._keys = keys
        self._width = width
        self._temperature = temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step, vocabulary = input_ids.shape[1] - self._width, scores.shape[1]
        # in float64: float32 noise is too coarse in the tail that decides among many unlikely tokens
        noise_BV = np.stack([generator(self._seed, "sample", *key, step).gumbel(size=vocabulary) for key in self._keys])
        return scores.double() / self._temperature + torch.from_numpy(noise_BV).to(scores.device)


class _StopTexts:
    """A stopping criterion: a row is done once its text holds a stop text. It saves steps; what it leaves is cut in any case."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], width: int, ends: frozenset[int], fill: int | None
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._width = width
        self._ends = ends
        self._fill = fill
        self._done: set[int] = set()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor | None, **kwargs: Any) -> torch.Tensor:
        for row, reply in enumerate(input_ids[:, self._width :].tolist()):
            if row not in self._done:
                text = _decoded(self._tokenizer, cut_at_end(reply, self._ends, self._fill))
                if any(word in text for word in self._stop):
                    self._done.add(row)
        return torch.tensor([row in self._done for row in range(input_ids.shape[0])], device=input_ids.device)


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _texts(tokenizer: PreTrainedTokenizerBase, replies: Sequence[list[int]]) -> list[str]:
    return [_decoded(tokenizer, reply) if reply else "" for reply in replies]


def _replies(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
    guided: Callable[[Sequence[int], int], dict[str, Any]] | None = None,
) -> list[list[int]]:
    """Return the ids that follow each prompt, without end token and padding; an empty prompt is followed by nothing.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        ids: The prompts.
        max_new_tokens: Where a continuation is cut at the latest.
        batch_size: Prompts at a time.
        guided: From the places of a batch's prompts and its width, more arguments for the model's `generate`.
    """
    pad_id, ends = pad_id_of(tokenizer), _ends_of(model, tokenizer)
    fill = tokenizer.pad_token_id  # only a true pad token may be taken out of a reply
    settings = _greedy(max_new_tokens, ends, pad_id)
    order = sorted((index for index in range(len(ids)) if ids[index]), key=lambda index: -len(ids[index]))
    replies: list[list[int]] = [[] for _ in ids]
    device = next(iter(model.parameters())).device
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                width = len(ids[rows[0]])
                filled = [[pad_id] * (width - len(ids[index])) + list(ids[index]) for index in rows]
                mask = [[0] * (width - len(ids[index])) + [1] * len(ids[index]) for index in rows]
                output_BL = model.generate(
                    input_ids=torch.tensor(filled, device=device),
                    attention_mask=torch.tensor(mask, device=device),
                    generation_config=settings,
                    **(guided(rows, width) if guided is not None else {}),
                )
                for index, reply in zip(rows, output_BL[:, width:].tolist(), strict=True):
                    replies[index] = cut_at_end(reply, ends, fill)
    finally:
        model.train(was_training)
    return replies
