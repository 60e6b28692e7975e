"""What an objective may ask while it builds its terms: about the rows, the tokenizer and the model from before."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from temper.errors import DataError, ModelError
from temper.unlearn.objective import Context, TokenMask

if TYPE_CHECKING:
    from torch import nn

    from temper.unlearn.prepare import Prepared

__all__ = ["context_of", "sketched_context", "some_of_each"]

_LOOKED_AT = 256
"""Rows from which the median token norm is taken."""


def tokens_of(tokenizer: Any, words: Sequence[str]) -> dict[str, list[int]]:
    """Return word to the single tokens that are it, as it stands and after a blank; none where it takes several."""
    found = {}
    for word in words:
        ids = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in (word, f" {word}")]
        unknown = tokenizer.unk_token_id
        found[word] = sorted({row[0] for row in ids if len(row) == 1 and row[0] != unknown})
    return found


def some_of_each(places: Sequence[int], source_of: Sequence[int], most: int) -> list[int]:
    """Return at most so many places in all, the first ones of every source alike.

    Example:
        >>> some_of_each([0, 1, 2, 3, 4], [0, 0, 0, 0, 1], 4)
        [0, 1, 4]
    """
    sources = sorted({source_of[place] for place in places})
    share = max(1, most // max(len(sources), 1))
    return [place for source in sources for place in [place for place in places if source_of[place] == source][:share]]


def context_of(seed: int, prepared: Prepared, model: nn.Module) -> Context:
    """Return what the objective may ask while it builds its terms."""
    from temper.models.trunk import check_layer

    def median_token_norm(layer: int, role: str, topic: str) -> float:
        import torch

        from temper.data.padding import pad_items
        from temper.models.load import pad_id_of
        from temper.models.trunk import run_trunk

        rows = prepared.rows[role]
        about = [place for place, item in enumerate(rows.items) if item.topic == topic]
        items = [rows.items[place] for place in some_of_each(about, rows.source_of, _LOOKED_AT)]
        device = next(model.parameters()).device
        norms = []
        with torch.no_grad():
            for start in range(0, len(items), 32):
                batch = pad_items(items[start : start + 32], pad_id_of(prepared.tokenizer))
                hidden_BLD, _ = run_trunk(model, layer, batch["input_ids"].to(device), batch["attention_mask"].to(device))
                norms.append(hidden_BLD.float().norm(dim=-1)[batch["attention_mask"].to(device) == 1])
        median = float(torch.cat(norms).median())
        if not math.isfinite(median):
            raise ModelError(
                f"the output of block {layer} on the {role} rows is {median}: the model gives no finite numbers, so nothing can be steered by its "
                "norm. Check the model's weights."
            )
        return median

    return Context(
        seed=seed,
        hidden_size=int(prepared.config.get_text_config().hidden_size),
        check_layer=lambda layer, what: check_layer(model, layer, what),
        median_token_norm=median_token_norm,
        topics_of=lambda role: [item.topic for item in prepared.rows[role].items],
        closing_of=lambda mask, role: closing_of(prepared, mask, role),
        token_ids=lambda words: tokens_of(prepared.tokenizer, words),
    )


def sketched_context(
    *,
    seed: int = 0,
    width: int,
    topics_of: Callable[[str], Sequence[str]],
    check: Callable[[int, str], int] | None = None,
    prepared: Prepared | None = None,
) -> Context:
    """Return a context for terms that are only looked at: no model is asked, every norm is 1."""

    def token_ids(words: Sequence[str]) -> dict[str, list[int]]:
        return {word: [0] for word in words} if prepared is None else tokens_of(prepared.tokenizer, words)

    def closing(mask: TokenMask, role: str) -> tuple[int, ...]:
        return () if prepared is None else closing_of(prepared, mask, role)

    return Context(seed, width, check or (lambda layer, what: layer), lambda *_: 1.0, topics_of, closing, token_ids)


def closing_of(prepared: Prepared, mask: TokenMask, role: str) -> tuple[int, ...]:
    """Return the tokens of the closing tag for the mask `final`, none for another.

    Raises:
        DataError: A row of the role holds no closing tag, so that nothing of it would count.
    """
    if mask != "final":
        return ()
    tag = prepared.objective.close_tag
    ids = tuple(prepared.tokenizer(tag, add_special_tokens=False, verbose=False)["input_ids"])
    for item in prepared.rows[role].items if ids and role not in prepared.sketched else []:
        row = item.input_ids
        if not any(row[start : start + len(ids)] == ids for start in range(len(row) - len(ids) + 1)):
            raise DataError(
                f"data.{role} row {item.id!r}: has no {tag!r}, and the mask final counts from there on. Use another mask, or rows that think; "
                "method.close_tag says what ends a thought."
            )
    return ids
