"""Worlds shared by the tests of the room."""

from __future__ import annotations

from pathlib import Path

import pytest

from temper.world.people import World
from temper.world.spec import WorldSpec, world_spec


@pytest.fixture(scope="session")
def world() -> World:
    """The small world of seed 0."""
    return World(world_spec("small", 0))


@pytest.fixture(scope="session")
def default_world() -> World:
    """The default world of seed 0; data only."""
    return World(world_spec("default", 0))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def micro_spec() -> WorldSpec:
    """A small world whose models train for 20 steps."""
    return world_spec("small", 0).shortened(20)
