"""What every loss term is: needs, a pure function, and the unit its sum is divided by.

Legend for shapes: B rows, L tokens of the padded batch, N chosen positions, V vocabulary, D width.

A term returns a *sum* and the unit it is to be averaged over. The engine divides by the number of those units in the
whole optimiser step, over all micro-batches and processes, so that accumulation is exact: 4 x 1 rows and 1 x 4 rows give
the same gradient, for means over rows and for means over tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch

__all__ = [
    "Batch",
    "Cache",
    "LossTerm",
    "Outputs",
    "TermValue",
    "Unit",
    "followed_BL",
    "labelled_BL",
    "predicting_BL",
    "token_nll_BL",
]

Unit = Literal["rows", "tokens", "positions"]
"""rows; labelled tokens; tokens that are not padding and have a successor in their row."""


@dataclass
class Batch:
    """The rows of one role.

    Attributes:
        input_ids: (B, L) token ids, right padded.
        attention_mask: (B, L), 1 where there is a token.
        labels: (B, L), the token id where it is scored, else -100.
        index: (B,), the place of each row in its role's data.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor


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
    mask[:, :-1] = batch.attention_mask[:, 1:] == 1
    return mask


def token_nll_BL(batch: Batch, computed_BL: torch.Tensor, log_probs_NV: torch.Tensor) -> torch.Tensor:
    """Return -log p of each labelled token at its own position, 0 elsewhere, shape (B, L)."""
    next_BL = torch.zeros_like(batch.labels)
    next_BL[:, :-1] = batch.labels[:, 1:].clamp(min=0)
    chosen_N = log_probs_NV.gather(1, next_BL[computed_BL].unsqueeze(1)).squeeze(1)
    spread_BL = torch.zeros(batch.labels.shape, dtype=log_probs_NV.dtype, device=log_probs_NV.device)
    spread_BL = spread_BL.masked_scatter(computed_BL, -chosen_N)
    spread_BL = spread_BL * predicting_BL(batch)
    return torch.nn.functional.pad(spread_BL[:, :-1], (1, 0))


@dataclass
class Outputs:
    """What the model gave for one role. Only what some term needs is there.

    Attributes:
        token_nll: (B,) rows of -log p summed over each row's labelled tokens are in `row_nll`; this is (B, L), 0 where unscored.
        log_probs: (N, V) at the positions that have a successor, row by row.
        hidden: Block index to its output (B, L, D).
    """

    token_nll: torch.Tensor | None = None
    log_probs: torch.Tensor | None = None
    hidden: dict[int, torch.Tensor] = field(default_factory=dict)


@dataclass
class Cache:
    """The same quantities under the weights from before training, without gradient.

    Attributes:
        row_nll: (B,) sum of -log p over each row's labelled tokens.
        log_probs: (N, V) at the positions that have a successor.
        hidden: Block index to its output (B, L, D).
    """

    row_nll: torch.Tensor | None = None
    log_probs: torch.Tensor | None = None
    hidden: dict[int, torch.Tensor] = field(default_factory=dict)


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
        """Return what must be computed: token_nll, log_probs, hidden:ℓ, and ref_row_nll, ref_log_probs, ref_hidden:ℓ."""
        return frozenset()

    def __call__(self, outputs: Outputs, batch: Batch, cache: Cache) -> TermValue:
        """Return the sum of the term over the batch."""
        raise TypeError(f"{type(self).__name__} does not define its loss")
