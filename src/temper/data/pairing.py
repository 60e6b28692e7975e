"""Pairing roles: which row of each role a sample holds, as a pure function of the seed and the sample's number.

The anchor role is walked in a fresh permutation every epoch. The rows of the other roles are drawn without replacement
from a permutation that wraps. Where a role has several sources, draws are spread over them by an additive low-discrepancy
sequence, so that any stretch of draws holds them in proportion to their weights.

Rows of like length can share a step: the samples of a window of steps are sorted by length and dealt to its steps, the same way for every
role, so that a step's forget and retain rows are of like length too. Which rows a window holds does not change, nor does it depend on
how a step is split into micro-batches and processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from torch.utils.data import Dataset

from temper.data.tokenise import Encoded
from temper.draws import generator
from temper.errors import DataError

__all__ = ["RolePairs"]

_GOLDEN = (5**0.5 - 1) / 2
"""Step of the additive sequence: the golden ratio spreads most evenly."""


@lru_cache(maxsize=64)
def _permutation(seed: int, role: str, source: int, turn: int, size: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return generator(seed, "order", role, source, turn).permutation(size)


def _wrapped(seed: int, role: str, source: int, size: int, draw: int) -> int:
    """Return the row of draw number `draw` from a permutation of `size` rows that is drawn anew when it is used up."""
    turn, place = divmod(draw, size)
    return int(_permutation(seed, role, source, turn, size)[place])


class _Sources:
    """Assigns the draws of a role to its sources, to the documents of a source, and to the rows of a document.

    Every document of a source is drawn equally often, whatever number of rows was cut from it; its rows take turns.

    Args:
        seed: Seed of all draws.
        role: The role.
        rows: Its rows.
        length: Number of draws.
        turns: For each draw the topic it must be about; None where topics mix.
        by_size: Whether a source is drawn from in proportion to its documents instead of by its weight.
    """

    def __init__(
        self,
        seed: int,
        role: str,
        rows: Encoded,
        length: int,
        turns: Sequence[str] | None = None,
        by_size: bool = False,
    ) -> None:
        self._seed, self._role = seed, role
        owner_of_row = np.array(rows.source_of)
        count = len(rows.source_weights)
        self._documents = [_documents(rows, np.flatnonzero(owner_of_row == source).tolist()) for source in range(count)]
        sizes = np.array([len(documents) for documents in self._documents])
        weights = sizes.astype(float) if by_size else np.array(rows.source_weights) * (sizes > 0)
        self._owner = np.zeros(length, dtype=np.int32)
        topics = {source: rows.items[documents[0][0]].topic for source, documents in enumerate(self._documents) if documents}
        for topic in [None] if turns is None else sorted(set(turns)):
            about = weights * np.array([topic is None or topics.get(source) == topic for source in range(count)])
            draws = np.arange(length) if turns is None else np.flatnonzero(np.array(turns) == topic)
            borders = np.cumsum(about / about.sum())
            key = ("sources", role) if topic is None else ("sources", role, topic)
            points = (generator(seed, *key).random() + np.arange(len(draws)) * _GOLDEN) % 1.0
            last = int(np.flatnonzero(about)[-1])
            self._owner[draws] = np.minimum(np.searchsorted(borders, points, side="right"), last)
        self._rank = np.zeros(length, dtype=np.int64)
        for source in range(count):
            drawn = np.flatnonzero(self._owner == source)
            self._rank[drawn] = np.arange(len(drawn))

    def row(self, draw: int) -> int:
        """Return the row of a draw."""
        source = int(self._owner[draw])
        documents, rank = self._documents[source], int(self._rank[draw])
        rows = documents[_wrapped(self._seed, self._role, source, len(documents), rank)]
        return rows[rank // len(documents) % len(rows)]


def _documents(rows: Encoded, places: Sequence[int]) -> list[list[int]]:
    """Return the rows of each document, in the order in which documents first occur."""
    found: dict[str, list[int]] = {}
    for place in places:
        found.setdefault(rows.items[place].document or f"row {place}", []).append(place)
    return list(found.values())


class RolePairs(Dataset[dict[str, int]]):
    """Sample number to the row of each role.

    Args:
        roles: Role to its rows.
        anchor: The role whose length is an epoch.
        seed: Seed of all draws.
        length: Number of samples.
        step: Samples of an optimiser step, over micro-batches and processes.
        window: Steps among which samples are sorted by length; 0 or 1 leaves them as drawn.
        turns: Topics that take turns, a step each: step i draws rows about topic i mod n, in every role that knows topics; lengths are
            then not sorted.

    Raises:
        DataError: The anchor has no rows, or sources of unequal weight; or a topic has no rows in a role that knows others.
    """

    def __init__(
        self,
        roles: Mapping[str, Encoded],
        *,
        anchor: str,
        seed: int,
        length: int,
        step: int = 1,
        window: int = 0,
        turns: Sequence[str] = (),
    ) -> None:
        if anchor not in roles:
            raise DataError(f"train.anchor = {anchor!r} has no data. Roles with data: {', '.join(roles)}.")
        if len(set(roles[anchor].source_weights)) > 1:
            raise DataError(
                f"data.{anchor}: its sources have weights {roles[anchor].source_weights}, but every row of the anchor role is visited once an epoch. "
                "Leave their weights at 1, or set train.anchor to another role."
            )
        self._sizes = {role: len(rows.items) for role, rows in roles.items()}
        self._anchor, self._seed, self._length = anchor, seed, length
        self._step, self._window = step, window * step if window > 1 and len(turns) < 2 else 0
        self._tokens = {role: [len(item.input_ids) for item in rows.items] for role, rows in roles.items()}
        self._dealt: dict[tuple[str, int], list[int]] = {}
        of_draw = [turns[draw // step % len(turns)] for draw in range(length)] if len(turns) > 1 else None
        turned = {role for role, rows in roles.items() if of_draw is not None and _knows(role, rows, turns)}
        self._sources = {
            role: _Sources(seed, role, rows, length, of_draw if role in turned else None, by_size=role == anchor)
            for role, rows in roles.items()
            if role != anchor or role in turned
        }

    def __len__(self) -> int:
        return self._length

    @property
    def roles(self) -> list[str]:
        """Return the roles, the anchor first."""
        return [self._anchor, *(role for role in self._sources if role != self._anchor)]

    @property
    def has_epochs(self) -> bool:
        """Return whether the anchor is walked whole, epoch by epoch; where its topics take turns it is not."""
        return self._anchor not in self._sources

    def _drawn(self, role: str, draw: int) -> int:
        """Return the row of a draw, before sorting."""
        if role not in self._sources:
            return _wrapped(self._seed, role, 0, self._sizes[role], draw)
        return self._sources[role].row(draw)

    def _order(self, role: str, number: int) -> list[int]:
        """Return the draws of a window in the order in which its samples take them."""
        if (role, number) not in self._dealt:
            first = number * self._window
            draws = sorted(
                range(first, min(first + self._window, self._length)),
                key=lambda draw: self._tokens[role][self._drawn(role, draw)],
            )
            steps = [draws[start : start + self._step] for start in range(0, len(draws), self._step)]
            whole = [step for step in steps if len(step) == self._step]
            mixed = [whole[place] for place in generator(self._seed, "window", number).permutation(len(whole))]
            self._dealt = {
                key: order for key, order in self._dealt.items() if key[1] >= number - 1
            }  # only near windows are read again
            self._dealt[role, number] = [draw for step in (*mixed, *steps[len(whole) :]) for draw in step]
        return self._dealt[role, number]

    def draw(self, role: str, index: int) -> tuple[int, int]:
        """Return the row of a role that a sample holds, and the anchor's epoch it was drawn in.

        Raises:
            IndexError: There is no such sample.
        """
        if not 0 <= index < self._length:
            raise IndexError(index)
        draw = self._order(role, index // self._window)[index % self._window] if self._window else index
        return self._drawn(role, draw), draw // self._sizes[self._anchor]

    def __getitem__(self, index: int) -> dict[str, int]:
        return {role: self.draw(role, index)[0] for role in self.roles}


def _knows(role: str, rows: Encoded, turns: Sequence[str]) -> bool:
    """Return whether the rows of a role are told apart by topic; one topic that is none of those that take turns serves them all.

    Raises:
        DataError: Some of the topics have rows and others have none.
    """
    known = {item.topic for item in rows.items}
    missing = [topic for topic in turns if topic not in known]
    if missing and known & set(turns):
        raise DataError(
            f"data.{role}: has no rows about the topic {missing[0]!r}; its topics: {', '.join(sorted(known))}. Give each source of the role its "
            "topic, or leave topics out of the role."
        )
    return not missing
