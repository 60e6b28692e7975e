"""What a merge did, counted tensor by tensor: what was kept, how long and how far apart the task vectors are, where signs disagree.

| number | meaning |
| --- | --- |
| kept | entries of τ̂_t that are not zero, over those of τ_t that are not |
| norm | ‖τ_t‖₂, and of the merged change |
| cosine | τ_s · τ_t / ‖τ_s‖ ‖τ_t‖, before anything is dropped |
| conflict | entries with τ̂ of both signs, over those with any τ̂ |
| agreement | how many entries have 0, 1 … n models whose τ̂ has the sign of the merged change |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

__all__ = ["MergeReport", "TensorTally"]

_MANY_ZERO_SUMS: Final = 0.001
"""Above this share of entries the rule for a sum of zero decides what a merge looks like."""

_FAINT: Final = 1e-30


@dataclass
class TensorTally:
    """Counts over one tensor, or over all.

    Attributes:
        n_models: How many rows there are.
        entries: Of the tensor.
        products: τ_s · τ_t, (n, n) float64.
        nonzero: Entries of each τ_t that are not zero.
        kept: Entries of each τ̂_t that are not zero.
        touched: Entries at which some τ̂ is not zero.
        conflicts: Those with τ̂ of both signs.
        agreeing: Entries by how many models have the sign of the merged change, (n + 1,).
        zero_sums: Entries whose τ̂ sum to zero though some are not zero, where the method elects signs.
        merged: ‖merged‖².
    """

    n_models: int
    entries: int = 0
    products: Tensor = field(init=False)
    nonzero: Tensor = field(init=False)
    kept: Tensor = field(init=False)
    touched: int = 0
    conflicts: int = 0
    agreeing: Tensor = field(init=False)
    zero_sums: int = 0
    merged: float = 0.0
    _seen: int = 0

    def __post_init__(self) -> None:
        self.products = torch.zeros(self.n_models, self.n_models, dtype=torch.float64)
        self.nonzero, self.kept = torch.zeros(2, self.n_models, dtype=torch.int64)
        self.agreeing = torch.zeros(self.n_models + 1, dtype=torch.int64)

    def before(self, rows_NP: Tensor) -> None:
        """Count a piece of all τ."""
        self.products += _products(rows_NP)
        for number, row in enumerate((rows_NP != 0).numpy()):
            self.nonzero[number] += int(np.count_nonzero(row))

    def after(self, rows: Sequence[Tensor], order: Sequence[int], merged_P: Tensor) -> None:
        """Count a piece of all τ̂, which stand in another order, and of what they were merged to."""
        # numpy counts bytes many times faster than torch does
        positive_P, negative_P = np.zeros((2, len(merged_P)), np.uint8)
        for number, row in zip(order, rows, strict=True):
            above, below = (row > 0).numpy(), (row < 0).numpy()
            positive_P += above
            negative_P += below
            self.kept[number] += int(np.count_nonzero(above)) + int(np.count_nonzero(below))
        self.touched += int(np.count_nonzero(positive_P | negative_P))
        self.conflicts += int(np.count_nonzero((positive_P != 0) & (negative_P != 0)))
        agreeing_P = positive_P * (merged_P > 0).numpy() + negative_P * (merged_P < 0).numpy()
        for count in range(1, self.n_models + 1):
            self.agreeing[count] += int(np.count_nonzero(agreeing_P == count))
        self._seen += len(merged_P)
        self.agreeing[0] = self._seen - int(self.agreeing[1:].sum())
        self.merged += float(_products(merged_P[None]))

    def add(self, other: TensorTally) -> None:
        """Count those of another tensor too."""
        self.entries += other.entries
        self.products += other.products
        self.nonzero += other.nonzero
        self.kept += other.kept
        self.touched += other.touched
        self.conflicts += other.conflicts
        self.agreeing += other.agreeing
        self.zero_sums += other.zero_sums
        self.merged += other.merged

    def facts(self) -> dict[str, Any]:
        """Return it as JSON; what has no value, such as the cosine with a change of zero, is null."""
        norms = self.products.diagonal().clamp(min=0).sqrt().tolist()
        pairs = [(s, t) for s in range(self.n_models) for t in range(s + 1, self.n_models)]
        return {
            "entries": self.entries,
            "norms": norms,
            "merged_norm": math.sqrt(self.merged),
            "kept": [_share(kept, of) for kept, of in zip(self.kept.tolist(), self.nonzero.tolist(), strict=True)],
            "cosines": [
                {"of": [s, t], "cosine": float(self.products[s, t]) / (norms[s] * norms[t]) if norms[s] * norms[t] else None}
                for s, t in pairs
            ],
            "sign_conflicts": _share(self.conflicts, self.touched),
            "agreement": self.agreeing.tolist(),
            "zero_sums": _share(self.zero_sums, self.touched),
        }


def _products(rows_NP: Tensor) -> Tensor:
    """Return the product of every two rows, (N, N) float64."""
    found = (rows_NP @ rows_NP.T).double()
    sizes = found.diagonal()
    if not bool(torch.isfinite(sizes).all()) or float(sizes.min()) < _FAINT:  # squares that float32 does not hold
        wide = rows_NP.double()
        return wide @ wide.T
    return found


def _share(part: int, of: int) -> float | None:
    return part / of if of else None


@dataclass
class MergeReport:
    """What a merge did.

    Attributes:
        models: What each was called, in the order in which they were given.
        bypassed: Whether the one model was taken as it is.
        tensors: By name, those that some model changed.
        unchanged: Entries of the tensors that none did.
        kept_share: What the method was to keep.
        trims_model: Whether entries of all tensors competed.
    """

    models: list[str]
    bypassed: bool = False
    tensors: dict[str, TensorTally] = field(default_factory=dict)
    unchanged: int = 0
    kept_share: float | None = None
    trims_model: bool = False

    @property
    def total(self) -> TensorTally:
        """Return the counts over all tensors that some model changed."""
        total = TensorTally(len(self.models))
        for tally in self.tensors.values():
            total.add(tally)
        return total

    def add(self, name: str, tally: TensorTally) -> None:
        """Take in one tensor."""
        if bool(tally.nonzero.any()):
            self.tensors[name] = tally
        else:
            self.unchanged += tally.entries

    @property
    def warnings(self) -> list[str]:
        """Return what a reader must know before relying on the result."""
        found, total = [], self.total
        if self.bypassed:
            found.append(
                "one model alone is not merged: the result is that model, and method, density, scale and weights were not used"
            )
        elif not self.tensors:
            found.append("no model differs from the base: the result is the base")
        if total.touched and total.zero_sums > _MANY_ZERO_SUMS * total.touched:
            found.append(
                f"{100 * total.zero_sums / total.touched:.2g} % of the kept entries sum to exactly zero over the models, where a convention and "
                "not the models decides the sign; are two of them opposites of each other?"
            )
        if self.kept_share is not None and self.kept_share < 1 and not self.bypassed and total.nonzero.any():
            kept = float(total.kept.sum()) / float(total.nonzero.sum())
            if kept > min(2 * self.kept_share, (1 + self.kept_share) / 2):
                found.append(
                    f"of the changed entries {100 * kept:.3g} % were kept, although the density is {self.kept_share:g}: most entries that compete did "
                    "not change at all. "
                    + (
                        "Let entries compete within tensors (trim = tensor)."
                        if self.trims_model
                        else "A lower density would trim."
                    )
                )
        return found

    def facts(self) -> dict[str, Any]:
        """Return it as JSON."""
        total = self.total
        return {
            "total": {**total.facts(), "unchanged_entries": self.unchanged},
            "warnings": self.warnings,
            "tensors": {name: tally.facts() for name, tally in self.tensors.items()},
        }
