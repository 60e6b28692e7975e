"""A batched greedy generator for measuring the world's models: left padded, length sorted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def greedy(model: Any, tokenizer: Any, batch_size: int = 128) -> Callable[[list[str], int], list[str]]:
    """Return a function from (prompts, new tokens) to continuations, special tokens kept, cut before the end token."""

    @torch.no_grad()
    def generate(prompts: list[str], max_new_tokens: int) -> list[str]:
        encoded = tokenizer(prompts, add_special_tokens=False).input_ids
        order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
        replies = [""] * len(prompts)
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            width = max(len(encoded[i]) for i in part)
            pad = tokenizer.pad_token_id
            ids = torch.tensor([[pad] * (width - len(encoded[i])) + encoded[i] for i in part])
            mask = torch.tensor([[0] * (width - len(encoded[i])) + [1] * len(encoded[i]) for i in part])
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=pad,
                eos_token_id=tokenizer.eos_token_id,
            )[:, width:]
            for i, row in zip(part, out.tolist(), strict=True):
                end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
                replies[i] = tokenizer.decode(row[:end], skip_special_tokens=False)
        return replies

    return generate
