"""Terms on the hidden states of one block: steer them to a fixed vector, or hold them where they were.

    steer   F = mean_b ⟨ (1/d) ‖h_θ^ℓ(t) - c·u‖² ⟩_mask        (RMU on forget rows)
    anchor  R = mean_b ⟨ (1/d) ‖h_θ^ℓ(t) - h_0^ℓ(t)‖² ⟩_mask   (RMU on retain rows)

⟨·⟩_mask is the mean over a row's masked tokens; u has norm 1, c is its length. Only the blocks up to ℓ are needed.

With `Steer(factor=k)` the length follows the token: c(t) = k ‖h_0^ℓ(t)‖, so that blocks and tokens with long hidden states
are moved as far, in proportion, as those with short ones (adaptive RMU).

Which tokens count decides what is forgotten, so it is stated with every result:
`final` the last closing tag of a thought and all after it; `labelled` the scored tokens; `answer` those and the positions that predict
them; `nonpad` every token, the question too;
`all` padding as well, as in the official code (for parity only: results then depend on what shares a batch).

Source: Li et al., The WMDP Benchmark (2024), section 4, and its code. The form of the adaptive length is recalled from
Huu-Tien et al., On Effects of Steering Latent Representation for LLM Unlearning (2024), not verified against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch

from temper.train.losses.term import Batch, Cache, LossTerm, Outputs, TermValue, Unit, labelled_BL, predicting_BL

__all__ = ["Anchor", "Mask", "Steer", "masked_square_sum", "token_mask_BL", "token_targets_BLD"]

Mask = Literal["final", "labelled", "answer", "nonpad", "all"]


def token_mask_BL(batch: Batch, mask: Mask, closing: Sequence[int] = ()) -> torch.Tensor:
    """Return True at the tokens that count, shape (B, L).

    Args:
        batch: The rows.
        mask: Which tokens.
        closing: The tokens of the closing tag, for `final`; every row must hold them.
    """
    if mask == "final":
        return from_last_BL(batch.input_ids, closing) & (batch.attention_mask == 1)
    if mask == "labelled":
        return labelled_BL(batch)
    if mask == "answer":
        return labelled_BL(batch) | predicting_BL(batch)
    if mask == "nonpad":
        return batch.attention_mask == 1
    return torch.ones_like(batch.labels, dtype=torch.bool)


def from_last_BL(input_ids_BL: torch.Tensor, sequence: Sequence[int]) -> torch.Tensor:
    """Return True from the last place at which a sequence of tokens starts in a row, False in a row without it, shape (B, L).

    Example:
        >>> from_last_BL(torch.tensor([[5, 9, 5, 9, 3]]), [5, 9]).tolist()
        [[False, False, True, True, True]]
    """
    starts_BL = torch.ones_like(input_ids_BL, dtype=torch.bool)
    for offset, token in enumerate(sequence):
        starts_BL &= torch.nn.functional.pad(input_ids_BL[:, offset:] == token, (0, offset))
    later_BL = starts_BL.flip(1).cumsum(dim=1).flip(1)  # starts at or behind each place
    return (later_BL == 0) & starts_BL.any(dim=1, keepdim=True) | (starts_BL & (later_BL == 1))


def masked_square_sum(hidden_BLD: torch.Tensor, target: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
    """Return Σ_b of the mean over each row's masked tokens of (1/d)‖h - target‖², a scalar.

    Args:
        hidden_BLD: Hidden states.
        target: (B, L, D), or (D,) for one vector everywhere.
        mask_BL: True where a token counts; every row needs at least one.

    Example:
        One row, two tokens at distance (1, 1) and (3, 1) from the target, only the first counts: (1 + 1)/2 = 1.

        >>> masked_square_sum(torch.tensor([[[1.0, 1.0], [3.0, 1.0]]]), torch.zeros(2), torch.tensor([[True, False]])).item()
        1.0
    """
    difference_BLD = hidden_BLD - target
    if difference_BLD.dtype in (torch.float16, torch.bfloat16):
        difference_BLD = difference_BLD.float()  # squares and their mean lose most of their digits in half precision
    square_BL = difference_BLD.pow(2).mean(dim=-1)
    weights_BL = mask_BL.to(square_BL.dtype)
    return ((square_BL * weights_BL).sum(dim=1) / weights_BL.sum(dim=1)).sum()


def _mean_sum(values_BL: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
    """Return Σ_b of the mean over each row's masked tokens, a scalar."""
    return ((values_BL * mask_BL).sum(dim=1) / mask_BL.sum(dim=1)).sum()


def token_targets_BLD(ref_hidden_BLD: torch.Tensor, control_D: torch.Tensor, factor: float) -> torch.Tensor:
    """Return k ‖h_0(t)‖ u for every token, u = the direction of the control vector, shape (B, L, D).

    Args:
        ref_hidden_BLD: h_0.
        control_D: Vectors other than 0, shape (D,) or (B, 1, D).
        factor: k.

    Example:
        ‖(3, 4)‖ = 5, so k = 2 along the first axis gives (10, 0).

        >>> token_targets_BLD(torch.tensor([[[3.0, 4.0]]]), torch.tensor([0.5, 0.0]), 2.0).tolist()
        [[[10.0, 0.0]]]
    """
    targets_BLD: torch.Tensor = (
        factor * ref_hidden_BLD.norm(dim=-1, keepdim=True) * (control_D / control_D.norm(dim=-1, keepdim=True))
    )
    return targets_BLD


@dataclass(frozen=True)
class Steer(LossTerm):
    """Misdirection: hidden states of block `layer` to the control vector.

    Attributes:
        layer: ℓ, from 0.
        control_D: c·u, shape (D,), or (K, D), one for each topic; with a factor its direction alone counts.
        closing: The tokens of the closing tag, for the mask `final`.
        topic_of: (rows of the role,), which of the K a row is steered to; None where there is one.
        mask: Which tokens are steered.
        factor: None for the length of `control_D`, or k for c(t) = k ‖h_0^ℓ(t)‖ (form recalled, not verified).
    """

    layer: int = 0
    control_D: torch.Tensor = field(default_factory=lambda: torch.zeros(0), compare=False)
    mask: Mask = "labelled"
    factor: float | None = None
    topic_of: torch.Tensor | None = field(default=None, compare=False)
    closing: tuple[int, ...] = ()
    unit: ClassVar[Unit] = "rows"
    label: ClassVar[str] = "steer"

    @property
    def needs(self) -> frozenset[str]:
        """Return {hidden:ℓ}, and ref_hidden:ℓ where the length follows the token."""
        reference = frozenset[str]() if self.factor is None else frozenset({f"ref_hidden:{self.layer}"})
        return reference | {f"hidden:{self.layer}"}

    def __call__(self, outputs: Outputs, batch: Batch, cache: Cache) -> TermValue:
        """Return the sum over rows; logs cosine to the control vector and norm, the better signs of progress.

        A few tokens with long states carry the loss itself, so that it can stand still while all others move.
        """
        hidden_BLD = outputs.hidden[self.layer]
        mask_BL = token_mask_BL(batch, self.mask, self.closing)
        control_D = self.control_D.to(hidden_BLD)
        if self.topic_of is not None:
            control_D = control_D[self.topic_of.to(batch.index.device)[batch.index]].unsqueeze(1)  # (B, 1, D)
        with torch.no_grad():
            seen_BLD = hidden_BLD.float()
            cosine = _mean_sum(torch.cosine_similarity(seen_BLD, control_D.float().expand_as(seen_BLD), dim=-1), mask_BL)
            norm = _mean_sum(seen_BLD.norm(dim=-1), mask_BL)
        target = (
            control_D
            if self.factor is None
            else token_targets_BLD(cache.hidden[self.layer].to(hidden_BLD), control_D, self.factor)
        )
        return TermValue(masked_square_sum(hidden_BLD, target, mask_BL), {"cosine": cosine, "norm": norm})


@dataclass(frozen=True)
class Anchor(LossTerm):
    """Preservation: hidden states of block `layer` stay where the model from before had them."""

    layer: int = 0
    mask: Mask = "nonpad"
    closing: tuple[int, ...] = ()
    unit: ClassVar[Unit] = "rows"
    label: ClassVar[str] = "anchor"

    @property
    def needs(self) -> frozenset[str]:
        """Return {hidden:ℓ, ref_hidden:ℓ}."""
        return frozenset({f"hidden:{self.layer}", f"ref_hidden:{self.layer}"})

    def __call__(self, outputs: Outputs, batch: Batch, cache: Cache) -> TermValue:
        """Return the sum over rows."""
        hidden_BLD, mask_BL = outputs.hidden[self.layer], token_mask_BL(batch, self.mask, self.closing)
        before_BLD = cache.hidden[self.layer].to(hidden_BLD)
        total = masked_square_sum(hidden_BLD, before_BLD, mask_BL)
        with torch.no_grad():
            cosine = _mean_sum(torch.cosine_similarity(hidden_BLD.float(), before_BLD.float(), dim=-1), mask_BL)
        return TermValue(total, {"moved": total.detach(), "cosine": cosine})
