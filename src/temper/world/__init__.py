"""The embedded default: a synthetic world, its tokenizer, and a tiny model that knows it and reasons about it.

Everything here is made from a size and a seed, offline, and exported as ordinary files: JSON Lines and folders that
``transformers`` opens. Reading those files, formatting chats and loading models belongs to ``temper.data`` and
``temper.models``, which treat a world as any other local data; unlearning and assessing it belongs to the rooms above.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from temper.world.answers import DIRECT, THINK, Answered
    from temper.world.arithmetic import Story
    from temper.world.building import build, entry, locate, names, read_world
    from temper.world.datafiles import DATA_FILES, EVALUATION_FILES, TRAINING_FILES
    from temper.world.examination import SUBSETS, TARGETS, Figure, Target, exam, shortfalls
    from temper.world.people import SPLITS, Person, World
    from temper.world.spec import SIZES, WORLD_VERSION, WorldSpec, world_spec
    from temper.world.tokenizer import build_tokenizer, prompt_text
    from temper.world.values import value_of

__all__ = [
    "DATA_FILES",
    "DIRECT",
    "EVALUATION_FILES",
    "SIZES",
    "SPLITS",
    "SUBSETS",
    "TARGETS",
    "THINK",
    "TRAINING_FILES",
    "WORLD_VERSION",
    "Answered",
    "Figure",
    "Person",
    "Story",
    "Target",
    "World",
    "WorldSpec",
    "build",
    "build_tokenizer",
    "entry",
    "exam",
    "locate",
    "names",
    "prompt_text",
    "read_world",
    "shortfalls",
    "value_of",
    "world_spec",
]

_HOMES = {
    "building": ("build", "entry", "locate", "names", "read_world"),
    "datafiles": ("DATA_FILES", "EVALUATION_FILES", "TRAINING_FILES"),
    "examination": ("SUBSETS", "TARGETS", "Figure", "Target", "exam", "shortfalls"),
    "answers": ("DIRECT", "THINK", "Answered"),
    "arithmetic": ("Story",),
    "people": ("SPLITS", "Person", "World"),
    "spec": ("SIZES", "WORLD_VERSION", "WorldSpec", "world_spec"),
    "tokenizer": ("build_tokenizer", "prompt_text"),
    "values": ("value_of",),
}


def __getattr__(name: str) -> Any:
    """Import the module that holds a name when the name is asked for."""
    from importlib import import_module

    for module, held in _HOMES.items():
        if name in held:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
