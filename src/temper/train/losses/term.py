"""What every loss term is: needs, a pure function, and the unit its sum is divided by.

Legend for shapes: B rows, L tokens of the padded batch, N chosen positions, V vocabulary, D width.

A term returns a *sum* and the unit it is to be averaged over. The engine divides by the number of those units in the
whole optimiser step, over all micro-batches and processes, so that accumulation is exact: 4 x 1 rows and 1 x 4 rows give
the same gradient, for means over rows and for means over tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch

__all__ = [
    "Batch",
    "Cache",
    "LossTerm",
    "Outputs",
    "Positions",
    "TermValue",
    "Unit",
    "followed_BL",
    "labelled_BL",
    "next_tokens_N",
    "positions_BL",
    "predicting_BL",
    "spread_BL",
    "token_nll_BL",
]

Unit = Literal["rows", "tokens", "positions", "cells", "batches"]
"""rows; labelled tokens; tokens with a successor in their row; all cells, padding too; one for each micro-batch."""

Positions = Literal["labelled", "nonpad", "all"]
"""Where a next token is predicted: labelled, the next token is scored; nonpad, there is a next token; all, every cell, for parity only."""


@dataclass
class Batch:
    """The rows of one role.

    Attributes:
        input_ids: (B, L) token ids, right padded.
        attention_mask: (B, L), 1 where there is a token.
        labels: (B, L), the token id where it is scored, else -100.
        index: (B,), the place of each row in its role's data.
        alternative: The same rows with another response, where a term wants one.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor
    alternative: Batch | None = None

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> Batch:
        """Return a batch of padded tensors; rows without an index of their own are numbered."""
        index = tensors.get("index")
        if index is None:
            index = torch.arange(len(tensors["input_ids"]), device=tensors["input_ids"].device)
        return cls(tensors["input_ids"], tensors["attention_mask"], tensors["labels"], index)


def labelled_BL(batch: Batch) -> torch.Tensor:
    """Return True at the positions that hold a scored token, shape (B, L)."""
    return batch.labels != -100


def predicting_BL(batch: Batch) -> torch.Tensor:
    """Return True at the positions whose next token is scored, shape (B, L); the last column is False."""
    mask = torch.zeros_like(batch.labels, dtype=torch.bool)
    mask[:, :-1] = batch.labels[:, 1:] != -100
    return mask


def followed_BL(batch: Batch) -> torch.Tensor:
    """Return True at the tokens that have a successor in their row, shape (B, L): where a next token is predicted."""
    mask = torch.zeros_like(batch.labels, dtype=torch.bool)
    mask[:, :-1] = (batch.attention_mask[:, 1:] == 1) & (batch.attention_mask[:, :-1] == 1)
    return mask


def positions_BL(batch: Batch, which: Positions) -> torch.Tensor:
    """Return True at the positions of that kind, shape (B, L)."""
    if which == "labelled":
        return predicting_BL(batch)
    return followed_BL(batch) if which == "nonpad" else torch.ones_like(batch.labels, dtype=torch.bool)


def next_tokens_N(batch: Batch, which: Positions) -> torch.Tensor:
    """Return the token that follows each position of that kind, row by row, shape (N,); 0 behind the last column."""
    next_BL = torch.zeros_like(batch.input_ids)
    next_BL[:, :-1] = batch.input_ids[:, 1:]
    return next_BL[positions_BL(batch, which)]


def token_nll_BL(batch: Batch, computed_BL: torch.Tensor, log_probs_NV: torch.Tensor) -> torch.Tensor:
    """Return -log p of each labelled token at its own position, 0 elsewhere, shape (B, L)."""
    next_BL = torch.zeros_like(batch.labels)
    next_BL[:, :-1] = batch.labels[:, 1:].clamp(min=0)
    chosen_N = log_probs_NV.gather(1, next_BL[computed_BL].unsqueeze(1)).squeeze(1)
    return spread_BL(batch, computed_BL, -chosen_N)


def spread_BL(batch: Batch, computed_BL: torch.Tensor, nll_N: torch.Tensor) -> torch.Tensor:
    """Return -log p, given where it was computed, at the place of each labelled token, 0 elsewhere, shape (B, L)."""
    spread = torch.zeros(batch.labels.shape, dtype=nll_N.dtype, device=nll_N.device)
    spread = spread.masked_scatter(computed_BL, nll_N) * predicting_BL(batch)
    return torch.nn.functional.pad(spread[:, :-1], (1, 0))


@dataclass
class Outputs:
    """What the model gave for one role. Only what some term needs is there.

    Attributes:
        token_nll: (B, L), -log p of each labelled token at its own place, 0 elsewhere.
        log_probs: Kind of position to (N, V), row by row.
        logits: The same before normalisation.
        hidden: Block index to its output (B, L, D).
        alternative: The same for the alternative rows.
    """

    token_nll: torch.Tensor | None = None
    log_probs: dict[Positions, torch.Tensor] = field(default_factory=dict)
    logits: dict[Positions, torch.Tensor] = field(default_factory=dict)
    hidden: dict[int, torch.Tensor] = field(default_factory=dict)
    alternative: Outputs | None = None


@dataclass
class Cache:
    """The same quantities under the weights from before training, without gradient.

    Attributes:
        row_nll: (B,) sum of -log p over each row's labelled tokens.
        log_probs: Kind of position to (N, V).
        logits: The same before normalisation.
        hidden: Block index to its output (B, L, D).
        alternative: The same for the alternative rows.
    """

    row_nll: torch.Tensor | None = None
    log_probs: dict[Positions, torch.Tensor] = field(default_factory=dict)
    logits: dict[Positions, torch.Tensor] = field(default_factory=dict)
    hidden: dict[int, torch.Tensor] = field(default_factory=dict)
    alternative: Cache | None = None


@dataclass
class TermValue:
    """The sum of a term over a batch, and figures worth a line in the log (detached, sums over the same unit)."""

    total: torch.Tensor
    statistics: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class LossTerm:
    """Base of all terms.

    Attributes:
        role: The role whose rows it reads.
        weight: Its factor in the objective.
        unit: What its sum is averaged over.
    """

    role: str
    weight: float = 1.0
    unit: ClassVar[Unit] = "rows"
    label: ClassVar[str] = "term"

    @property
    def needs(self) -> frozenset[str]:
        """Return what must be computed.

        token_nll, log_probs:POSITIONS, logits:POSITIONS, hidden:ℓ; under the weights from before: ref_row_nll, ref_log_probs:POSITIONS,
        ref_logits:POSITIONS, ref_hidden:ℓ; and `alt`, all of these for the alternative rows too.
        """
        return frozenset()

    @property
    def pushes_away(self) -> bool:
        """Return whether the term has no end before the right tokens are less likely than chance; it then logs their -log p as `nll`."""
        return False

    def count(self, batch: Batch) -> int:
        """Return how many units the sum over this batch has."""
        if self.unit == "rows":
            return batch.input_ids.shape[0]
        if self.unit == "tokens":
            return int(labelled_BL(batch).sum())
        if self.unit == "positions":
            return int(followed_BL(batch).sum())
        return batch.input_ids.numel() if self.unit == "cells" else 1

    def __call__(self, outputs: Outputs, batch: Batch, cache: Cache) -> TermValue:
        """Return the sum of the term over the batch."""
        raise TypeError(f"{type(self).__name__} does not define its loss")
