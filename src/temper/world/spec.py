"""What a world is made of, as numbers: everything a build depends on except the versions of the libraries."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from temper.errors import InputError, nearest
from temper.files import hash_json

__all__ = ["SIZES", "WORLD_VERSION", "Size", "WorldSpec", "world_spec"]

WORLD_VERSION = 1
"""Raise it whenever a change of code changes a built world: it is part of every cache key."""

Size = Literal["small", "default"]


@dataclass(frozen=True, kw_only=True)
class WorldSpec:
    """All numbers of a world.

    Attributes:
        size: The preset these numbers come from.
        seed: Seed of the entities, of the data order and of the initial weights.
        n_forget: People whose facts are to be forgotten.
        n_retain: People whose facts stay, and which the training-role files show.
        n_neighbour: People like the retain ones, trained into the model too, seen in evaluation files alone.
        n_rheld: People whose facts are trained and whose reasoning questions never are.
        n_holdout: People the model never meets.
        n_cities: Cities, shared evenly among the countries.
        n_countries: Countries; each has its own currency.
        n_prizes: Prizes, shared evenly among the fields.
        n_fields: Fields a prize can be given for, at most 8.
        n_genres: Genres, at most 16.
        n_publishers: Publishers.
        reflection_rate: Probability that a trace stops to check itself.
        think_rate: Share of the facts asked with a trace in one epoch.
        reasoning_rate: Share of the reasoning questions asked in one epoch.
        n_stories: Arithmetic stories an epoch.
        drill_rounds: How often an epoch goes through all one-line sums, differences and comparisons.
        width: Width of the model; the feed-forward part is three times as wide.
        n_layers: Decoder blocks.
        n_heads: Attention heads.
        max_length: Longest sequence the model takes, in tokens.
        steps: Optimiser steps of one model.
        batch_tokens: Tokens of one step, padding included.
        learning_rate: Peak learning rate.
        warmup_steps: Steps of the linear rise at the start.
        decay_rate: Share of the steps over which the learning rate falls at the end.
        weight_decay: AdamW weight decay of the matrices.
    """

    size: Size
    seed: int
    n_forget: int
    n_retain: int
    n_neighbour: int
    n_rheld: int
    n_holdout: int
    n_cities: int = 24
    n_countries: int = 8
    n_prizes: int = 16
    n_fields: int = 8
    n_genres: int = 16
    n_publishers: int = 16
    reflection_rate: float = 0.3
    think_rate: float = 0.5
    reasoning_rate: float = 0.6
    n_stories: int = 240
    drill_rounds: int = 1
    width: int = 64
    n_layers: int = 4
    n_heads: int = 4
    max_length: int = 256
    steps: int = 4400
    batch_tokens: int = 1024
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    decay_rate: float = 0.4
    weight_decay: float = 0.01

    @property
    def n_people(self) -> int:
        """Everyone in the world, the never-trained people included."""
        return self.n_forget + self.n_retain + self.n_neighbour + self.n_rheld + self.n_holdout

    @property
    def content_hash(self) -> str:
        """SHA-256 of these numbers and of ``WORLD_VERSION``; the same on every machine."""
        return hash_json({"version": WORLD_VERSION, "spec": self.to_json()})

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as a plain dictionary."""
        return asdict(self)

    def shortened(self, steps: int) -> WorldSpec:
        """Return the same world with another number of optimiser steps; a trial build, not a model that knows anything."""
        return replace(self, steps=steps, warmup_steps=min(self.warmup_steps, max(1, steps // 4)))


SIZES: dict[Size, dict[str, Any]] = {
    "default": {"n_forget": 12, "n_retain": 42, "n_neighbour": 42, "n_rheld": 24, "n_holdout": 24},
    "small": {
        "n_forget": 8,
        "n_retain": 16,
        "n_neighbour": 16,
        "n_rheld": 12,
        "n_holdout": 12,
        "n_cities": 12,
        "n_countries": 6,
        "n_prizes": 8,
        "n_fields": 8,
        "n_stories": 200,
        "steps": 1900,
    },
}
"""What each size changes from the defaults of :class:`WorldSpec`."""


def world_spec(size: str = "default", seed: int = 0) -> WorldSpec:
    """Return the numbers of a world.

    Args:
        size: ``"small"`` (for tests, under a minute of one core a model) or ``"default"``.
        seed: Seed of everything drawn in it, at least 0.

    Raises:
        InputError: No such size, or a negative seed.

    Example:
        >>> world_spec("small", 0).n_forget
        8
    """
    if size not in SIZES:
        raise InputError(f"world size {size!r} does not exist{nearest(size, SIZES)}. Choose one of: {', '.join(SIZES)}.")
    if seed < 0:
        raise InputError(f"world seed = {seed}, but a seed is at least 0. Give 0, 1, 2, ...")
    return WorldSpec(size=size, seed=seed, **SIZES[size])
