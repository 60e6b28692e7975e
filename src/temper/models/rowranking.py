"""The largest scores of every row by itself, as Wanda takes them: each output of a matrix keeps the same share of its inputs.

A row's last chosen key is found by a partition of the row; ties within it go to the first places.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from temper.models.choice import Choice, Shards, budget
from temper.models.histogram import ABOVE_ALL, Histogram

__all__ = ["choose_in_rows"]


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where the rows of a tensor are cut.

    Attributes:
        dim: Along which dimension of the tensor a row lies.
        keys: A row's last chosen key, shape (R,).
        ties: How many with that key are chosen, shape (R,).
    """

    dim: int
    keys: np.ndarray
    ties: np.ndarray

    def mask(self, scores: Tensor) -> Tensor:
        mask = np.empty(_rows(scores, self.dim).shape, dtype=bool)
        for start, keys in _pieces(scores, self.dim):
            end = start + len(keys)
            key, ties = self.keys[start:end, None], self.ties[start:end, None]
            equal = keys == key
            mask[start:end] = (keys > key) | (equal & (np.cumsum(equal, axis=1) <= ties))
        chosen = torch.from_numpy(mask)
        return chosen.T.contiguous() if self.dim == 0 else chosen.reshape(scores.shape)


def _rows(scores: Tensor, dim: int) -> Tensor:
    """Return the tensor as rows (R, C): of its last dimension, or of the first of a matrix; a vector is one row."""
    if scores.dim() < 2:
        return scores.reshape(1, -1)
    return scores.T if dim == 0 else scores.reshape(-1, scores.shape[-1])


def _pieces(scores: Tensor, dim: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of a row and the keys of some rows from there on."""
    rows = _rows(scores.detach(), dim)
    step = max(1, 2**20 // max(rows.shape[1], 1))
    for start in range(0, len(rows), step):
        piece = rows[start : start + step].to("cpu", torch.float32).contiguous()
        yield start, piece.numpy().view(np.int32) & ABOVE_ALL


def choose_in_rows(
    scores: Mapping[str, Tensor], ratios: list[float], transposed: Container[str], shards: Shards
) -> dict[float, Choice]:
    """Return the choice of each ratio, the share taken of every row; see `temper.models.ranking.choose`.

    Raises:
        ModelError: A score is not finite.
    """
    cuts: dict[float, dict[str, _Cut]] = {ratio: {} for ratio in ratios}
    counts: dict[float, dict[str, int]] = {ratio: {} for ratio in ratios}
    competing = 0
    for name in scores:
        tensor = scores[name]
        Histogram().add(name, tensor)
        dim = 0 if name in transposed and tensor.dim() == 2 else 1
        count, width = _rows(tensor, dim).shape
        competing += count * width
        budgets = [budget(ratio, width) for ratio in ratios]
        keys_QR, ties_QR = _ends(tensor, dim, budgets)
        for ratio, wanted, keys_R, ties_R in zip(ratios, budgets, keys_QR, ties_QR, strict=True):
            cuts[ratio][name] = _Cut(dim, keys_R, ties_R)
            counts[ratio][name] = count * wanted
    totals = shards.add_up(np.array([competing, *(sum(counts[ratio].values()) for ratio in ratios)], np.int64))

    def choice(ratio: float, selected: int) -> Choice:
        own = cuts[ratio]
        return Choice(ratio, int(totals[0]), selected, counts[ratio], lambda name: own[name].mask(scores[name]))

    return {ratio: choice(ratio, int(selected)) for ratio, selected in zip(ratios, totals[1:], strict=True)}


def _ends(scores: Tensor, dim: int, budgets: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each budget and row, the key of the last one chosen and how many with that key are; shapes (Q, R)."""
    count, width = _rows(scores, dim).shape
    keys_QR = np.full((len(budgets), count), ABOVE_ALL, np.int32)
    ties_QR = np.zeros((len(budgets), count), np.int32)
    places = sorted({width - wanted for wanted in budgets if wanted})
    for start, keys_RC in _pieces(scores, dim) if places else ():
        ordered_RC = np.partition(keys_RC, places, axis=1)
        here = slice(start, start + len(keys_RC))
        for q, wanted in enumerate(budgets):
            if wanted:
                last_R = ordered_RC[:, width - wanted]
                keys_QR[q, here] = last_R
                ties_QR[q, here] = wanted - np.count_nonzero(keys_RC > last_R[:, None], axis=1)
    return keys_QR, ties_QR
