"""The pass of the original model over the traces that a model wrote: how likely each is, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from temper.assess.continuing import scored_after
from temper.assess.measure import Answers
from temper.assess.metrics.thoughts import thinks, trace_of
from temper.assess.passes import Entry
from temper.assess.records import token_log_probs
from temper.models.load import pad_id_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from temper.data import Item

__all__ = ["TRACE_IS_EMPTY", "trace_entries", "trace_nlls", "traces_of"]

TRACE_IS_EMPTY = "its trace is empty"


def traces_of(answers: Answers) -> list[tuple[int, str, str]]:
    """Return the traces of the rows that are to think: place of the row, what stands before the trace, the trace."""
    found = []
    for place, (item, text) in enumerate(zip(answers.items, answers.generations, strict=True)):
        if text is not None and thinks(item):
            begin, end = trace_of(text)
            found.append((place, text[:begin], text[begin:end]))
    return found


def trace_entries(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    traces: Sequence[tuple[int, str, str]],
    *,
    limit: int,
) -> list[Entry]:
    """Return for each trace its mean -log p under a model, None where it has no token.

    Args:
        model: The original model.
        tokenizer: That encoded the items.
        items: All rows of the role.
        traces: From `traces_of`.
        limit: Tokens that the model can read; a longer row is read up to there.
    """
    rows = scored_after(
        tokenizer, [items[place] for place, _, _ in traces], [before for _, before, _ in traces], [text for *_, text in traces]
    )
    rows = [replace(row, input_ids=row.input_ids[:limit], labels=row.labels[:limit]) for row in rows]
    chosen = [number for number, row in enumerate(rows) if any(label != -100 for label in row.labels)]
    entries: list[Entry] = [None] * len(rows)
    scored = token_log_probs(model, [rows[number] for number in chosen], pad_id=pad_id_of(tokenizer))
    for number, logp in zip(chosen, scored, strict=True):
        entries[number] = [-float(logp.mean(dtype=np.float64))]
    return entries


def trace_nlls(answers: Answers, traces: Sequence[tuple[int, str, str]], entries: Sequence[Entry]) -> list[float | str | None]:
    """Return one entry a row: the mean -log p of its trace, in words why it has none, or None where it is not to think."""
    found: list[float | str | None] = [None] * len(answers.items)
    for (place, _, _), entry in zip(traces, entries, strict=True):
        found[place] = entry[0] if isinstance(entry, list) else TRACE_IS_EMPTY
    return found
