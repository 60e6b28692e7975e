"""Which terms act at a step.

`sum` lets all act. The seam is made for the others: `alternate` (draw one objective a step), `max` (the largest weighted
gap) and `sequential` differ only in `active`. A schedule is a function of the step and the seed, so every process and
every resumed run agrees on it; terms that do not act cost no forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from temper.train.losses.term import LossTerm

__all__ = ["Schedule", "SumSchedule"]


class Schedule(Protocol):
    """Chooses terms."""

    def active(self, step: int, terms: Sequence[LossTerm]) -> tuple[int, ...]:
        """Return the indices of the terms that act at an optimiser step, counted from 0."""
        ...


class SumSchedule:
    """All terms act at every step."""

    def active(self, step: int, terms: Sequence[LossTerm]) -> tuple[int, ...]:
        """Return every index."""
        return tuple(range(len(terms)))
