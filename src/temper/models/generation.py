"""Continuations of prompts, greedy or drawn: what a model answers when it is asked.

Prompts are sorted by length and padded on the left, so that a batch holds little padding and every row continues at the
same column. The settings of generation are this module's own: a checkpoint's `generation_config` neither changes the
result nor is changed.

A drawn token is argmax(z/T + g) with Gumbel noise g, which has exactly the distribution softmax(z/T). The noise of every
token is a function of (seed, prompt, number of the sample, step), so samples depend neither on the size and the order of
batches nor on what else is asked. Source: Maddison et al., A* sampling (2014).

A continuation ends at an end token, at the first of the given stop texts, or where it is cut; `continuations` says which.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from temper.errors import InputError
from temper.files import hash_json
from temper.models.guides import GumbelNoise, StopTexts, cut_at_end, decoded, noise_of
from temper.models.load import pad_id_of

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

__all__ = [
    "Continuation",
    "continuations",
    "cut_at_end",
    "cut_at_stop",
    "generate",
    "prompt_ids",
    "prompt_keys",
    "sample",
]


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a model wrote after a prompt.

    Attributes:
        text: Without the end token, padding, and what follows the first stop text; that text itself is not in it.
        tokens: How many tokens were written, those of the stop text included, the end token not.
        stopped_by: stop: a stop text; end: an end token; length: it was cut.
        stop: The stop text that ended it, or nothing.
    """

    text: str
    tokens: int
    stopped_by: Literal["stop", "end", "length"]
    stop: str = ""


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
    stop: Sequence[str] = (),
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
        stop: A continuation ends before the first of these texts, which it does not hold.

    Raises:
        InputError: A stop text is empty.
    """
    del seed
    found = continuations(model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size, stop=stop)
    return [continuation.text for continuation in found]


def continuations(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    stop: Sequence[str] = (),
    temperature: float = 0.0,
    seed: int = 0,
    keys: Sequence[tuple[str, int]] | None = None,
) -> list[Continuation]:
    """Return one continuation of each prompt and what ended it, in the order of the prompts.

    Args:
        model: A causal language model.
        tokenizer: With or without a pad token, a begin or an end token.
        prompts: Whole texts or their ids.
        max_new_tokens: Where a continuation is cut at the latest.
        batch_size: Prompts at a time.
        stop: A continuation ends at the first of these texts.
        temperature: T; 0 takes the most likely token.
        seed: Of the draws; without draws it changes nothing.
        keys: What the noise of each prompt is named by, where the prompts are a part of more; else by `prompt_keys` of them alone.

    Raises:
        InputError: The temperature is below 0, or a stop text is empty.
    """
    if not (math.isfinite(temperature) and temperature >= 0):
        raise InputError(f"temperature = {temperature}: must be a finite number, 0 (the most likely token) or above")
    _check_stop(stop)
    ids = prompt_ids(tokenizer, prompts)
    noise = None
    if temperature > 0:
        named = prompt_keys(ids) if keys is None else keys
        noise = noise_of([(*key, 0) for key in named], seed, temperature)
    replies = _replies(model, tokenizer, ids, max_new_tokens, batch_size, stop, noise)
    return [_continuation(reply, text, stop) for reply, text in zip(replies, _texts(tokenizer, replies), strict=True)]


def _continuation(reply: _Reply, text: str, stop: Sequence[str]) -> Continuation:
    before = cut_at_stop(text, stop)
    if len(before) < len(text):
        found = next(word for word in sorted(stop, key=len, reverse=True) if text.startswith(word, len(before)))
        return Continuation(before, len(reply.ids), "stop", found)
    return Continuation(text, len(reply.ids), "end" if reply.has_ended else "length")


def _check_stop(stop: Sequence[str]) -> None:
    if isinstance(stop, str) or "" in stop:
        raise InputError(f"stop = {stop!r}: must be a list of texts that are not empty")


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
    _check_stop(stop)
    ids = prompt_ids(tokenizer, prompts)
    noise = noise_of([(*key, number) for key in prompt_keys(ids) for number in range(samples)], seed, temperature)
    replies = _replies(model, tokenizer, [row for row in ids for _ in range(samples)], max_new_tokens, batch_size, stop, noise)
    texts = [cut_at_stop(text, stop) for text in _texts(tokenizer, replies)]
    return [texts[start : start + samples] for start in range(0, len(texts), samples)]


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """Return what stands before the first stop text.

    Example:
        >>> cut_at_stop("Paris. Q: and then? Question:", ["Question:", "Q:"])
        'Paris. '
    """
    return text[: min((place for word in stop if (place := text.find(word)) >= 0), default=len(text))]


def prompt_keys(ids: Sequence[Sequence[int]]) -> list[tuple[str, int]]:
    """Return a name for each prompt that does not depend on its place: its content, and how often it came before."""
    seen: Counter[str] = Counter()
    keys = []
    for row in ids:
        content = hash_json(list(row))
        keys.append((content, seen[content]))
        seen[content] += 1
    return keys


@dataclass(frozen=True, slots=True)
class _Reply:
    """The ids that follow a prompt, without end token and padding, and whether an end token came."""

    ids: list[int]
    has_ended: bool


def _texts(tokenizer: PreTrainedTokenizerBase, replies: Sequence[_Reply]) -> list[str]:
    return [decoded(tokenizer, reply.ids) if reply.ids else "" for reply in replies]


def _replies(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
    stop: Sequence[str],
    noise: Callable[[Sequence[int], int], GumbelNoise] | None,
) -> list[_Reply]:
    """Return what follows each prompt; an empty prompt is followed by nothing.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        ids: The prompts.
        max_new_tokens: Where a continuation is cut at the latest.
        batch_size: Prompts at a time.
        stop: Texts after which a row need not go on.
        noise: From the places of a batch's prompts and its width, what is added to the logits.
    """
    from transformers import LogitsProcessorList, StoppingCriteriaList

    pad_id, ends = pad_id_of(tokenizer), _ends_of(model, tokenizer)
    fill = tokenizer.pad_token_id  # only a true pad token may be taken out of a reply
    settings = _greedy(max_new_tokens, ends, pad_id)
    order = sorted((index for index in range(len(ids)) if ids[index]), key=lambda index: -len(ids[index]))
    replies = [_Reply([], False) for _ in ids]
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
                guides: dict[str, Any] = {}
                stopping = StopTexts(tokenizer, stop, width, ends, fill) if stop else None
                if stopping is not None:
                    guides["stopping_criteria"] = StoppingCriteriaList([stopping])
                if noise is not None:
                    guides["logits_processor"] = LogitsProcessorList([noise(rows, width)])
                output_BL = model.generate(
                    input_ids=torch.tensor(filled, device=device),
                    attention_mask=torch.tensor(mask, device=device),
                    generation_config=settings,
                    **guides,
                )
                for place, (index, reply) in enumerate(zip(rows, output_BL[:, width:].tolist(), strict=True)):
                    # without an end token of its own, a row that is done goes on until the last one of its batch is
                    own = reply[: stopping.lengths.get(place)] if stopping is not None else reply
                    replies[index] = _Reply(cut_at_end(own, ends, fill), any(token in ends for token in own))
    finally:
        model.train(was_training)
    return replies
