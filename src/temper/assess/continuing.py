"""Texts put behind a row's prompt, as token ids that keep the tokenisation contract of the row itself.

    ids(prompt + given)                 what a continuation starts from
    ids(prompt + given + text)          labels on the tokens of `text`: where ids(prompt + given) and these stop being equal, `text` begins

No end token is added: choices and pieces of traces are scored as far as they go. Whether the tokenizer writes its own special tokens
before a prompt is read off the row's `prompt_ids`, so a chat template that writes them itself gets no second ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from temper.data import Item

__all__ = ["prompts_with", "scored_after"]

_IGNORED: Final = -100


def prompts_with(tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], given: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the ids of each item's prompt with a text behind it.

    Args:
        tokenizer: That encoded the items.
        items: Rows with a prompt.
        given: One text an item.
    """
    found = [item.prompt_ids for item in items]
    changed = [place for place, text in enumerate(given) if text or not found[place]]
    texts = [items[place].prompt + given[place] for place in changed]
    for place, ids in zip(changed, _ids(tokenizer, [items[place] for place in changed], texts), strict=True):
        found[place] = ids
    return found


def scored_after(
    tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], given: Sequence[str], texts: Sequence[str]
) -> list[Item]:
    """Return items that hold prompt + given + text, scored on the tokens of the text alone.

    Args:
        tokenizer: That encoded the items.
        items: Rows with a prompt; one may occur many times.
        given: What stands between prompt and text, one an item.
        texts: What is scored, one an item; an empty one leaves no label.
    """
    starts = prompts_with(tokenizer, items, given)
    wholes = [item.prompt + before + text for item, before, text in zip(items, given, texts, strict=True)]
    made = []
    for item, before, text, start_ids, ids in zip(items, given, texts, starts, _ids(tokenizer, items, wholes), strict=True):
        start = max(1, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(start_ids, ids, strict=False))))
        labels = (*([_IGNORED] * start), *ids[start:])
        made.append(
            replace(item, input_ids=ids, labels=labels, prompt=item.prompt + before, response=text, prompt_ids=tuple(start_ids))
        )
    return made


def _ids(tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the ids of texts that begin with their item's prompt."""
    bare = _adds_nothing(tokenizer, items)
    found: list[tuple[int, ...]] = [()] * len(texts)
    for specials in (True, False):
        chosen = [place for place, item in enumerate(items) if bare[item.prompt, item.prompt_ids] != specials]
        rows = _tokenised(tokenizer, [texts[place] for place in chosen], specials)
        for place, ids in zip(chosen, rows, strict=True):
            while specials and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:  # some tokenizers end every text
                ids = ids[:-1]
            found[place] = tuple(ids)
    return found


def _adds_nothing(tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]) -> dict[tuple[str, tuple[int, ...]], bool]:
    """Return for each prompt whether its row was tokenised without the tokenizer's own special tokens."""
    prompts = list({(item.prompt, item.prompt_ids): None for item in items})
    plain = _tokenised(tokenizer, [text for text, _ in prompts], False)
    begin = tokenizer.bos_token
    return {
        (text, ids): tuple(bare) == ids if ids else begin is not None and text.startswith(begin)
        for (text, ids), bare in zip(prompts, plain, strict=True)
    }


def _tokenised(tokenizer: PreTrainedTokenizerBase, texts: list[str], specials: bool) -> list[list[int]]:
    if not texts:
        return []
    return list(tokenizer(texts, add_special_tokens=specials, return_attention_mask=False, verbose=False)["input_ids"])
