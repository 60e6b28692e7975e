"""The models and the rows of the study of WAGLE: its benches.

| bench | model | rows |
| --- | --- | --- |
| world | the embedded world's, 0.29 million weights | the shipped recipes of `recipes/tiny` |
| tofu | made by `benchmarks/real/tofu_models.py`, 2.4 million weights | TOFU, forget05; TEMPER_REAL_DATA names the folder |
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temper.errors import InputError

__all__ = ["BENCHES", "OBJECTIVES", "READ", "Bench", "path_of", "prepared_of", "reading_rows", "recipe_of"]

OBJECTIVES = ("graddiff", "npo", "po", "rmu")


@dataclass(frozen=True)
class Bench:
    """A model with its rows.

    Attributes:
        title: In the page.
        steps: Most steps of a run.
        every: Steps between two looks at the forget loss.
        batch: Rows of each role in a step.
        rates: Objective to the learning rate of a dense run.
    """

    title: str
    steps: int
    every: int
    batch: int
    rates: Mapping[str, float]


BENCHES = {
    "world": Bench("The embedded world", 160, 4, 8, {"graddiff": 6.0e-4, "npo": 1.0e-3, "po": 1.0e-3, "rmu": 1.0e-3}),
    "tofu": Bench("TOFU, forget05", 32, 4, 4, {"graddiff": 1.0e-3, "npo": 2.0e-3, "po": 2.0e-3, "rmu": 1.0e-3}),
}

READ: dict[str, dict[str, tuple[str, int]]] = {
    "world": {
        "forget": ("eval_forget", 72),
        "forget_seen": ("forget_direct", 72),
        "neighbour": ("eval_retain", 126),
        "retain": ("eval_used", 63),
        "reasoning": ("eval_retain_reasoning", 42),
        "general": ("eval_background", 48),
    },
    "tofu": {"forget": ("forget_reworded", 34), "forget_seen": ("forget", 17), "neighbour": ("neighbour", 40), "retain": ("retain", 15)},
}  # fmt: skip
"""What is read: name to the rows and how many of them, evenly spaced. `forget` is asked in a wording that no batch holds, `neighbour`
are people (authors) that the model knows and no batch holds."""


def _tofu_rows(folder: Path) -> dict[str, Path]:
    """Write the rows of TOFU where they are not yet; return role to file."""
    sys.path.insert(0, str(Path(__file__).parent / "real"))
    from tofu_table import write_rows

    data = os.environ.get("TEMPER_REAL_DATA")
    if not data or not (Path(data) / "tofu").is_dir():
        raise InputError("set TEMPER_REAL_DATA to the folder of the real data sets, or leave the bench tofu out")
    names = ("forget", "retain", "neighbour", "forget_reworded")
    files = {name: folder / f"{name}.jsonl" for name in names}
    if not all(path.is_file() for path in files.values()):
        write_rows(Path(data) / "tofu", folder)
        lines = (Path(data) / "tofu" / "forget05_perturbed.json").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        texts = [
            json.dumps({"id": f"reworded/{n}", "prompt": row["paraphrased_question"], "response": f" {row['answer']}"})
            for n, row in enumerate(rows)
        ]
        files["forget_reworded"].write_text("\n".join(texts) + "\n", encoding="utf-8")
    return files


def _source(bench: str, name: str, files: Mapping[str, Path]) -> dict[str, Any]:
    if bench == "world":
        return {"path": f"world:{name}"}
    from tofu_models import PROMPT

    return {"path": str(files[name]), "template": "plain", "plain_format": PROMPT}


def recipe_of(bench: str, objective: str, seed: int, models: str | None, files: Mapping[str, Path]) -> Any:
    """Return the recipe of a run, its selection left open."""
    from temper.recipe import from_dict, load

    place = BENCHES[bench]
    train = {
        "steps": place.steps,
        "batch_size": place.batch,
        "learning_rate": place.rates[objective],
        "adam_beta2": 0.98,
        "threads": 1,
    }
    if bench == "world":
        changes = [f"train.{key}={value}" for key, value in train.items()]
        return load(f"tiny/{objective}.yaml", [f"seed={seed}", "selection=all", *changes])
    settings: dict[str, dict[str, Any]] = {
        "npo": {"beta": 0.1},
        "rmu": {"layer": 1, "steering_coefficient": "auto:2", "retain_weight": 10.0},
    }
    return from_dict(
        {
            "name": f"wagle-{objective}",
            "seed": seed,
            "model": {"path": str(Path(str(models)) / "original")},
            "data": {role: _source(bench, role, files) for role in ("forget", "retain")},
            "method": {"name": objective, **settings.get(objective, {})},
            "selection": "all",
            "train": train,
        }
    )


@functools.lru_cache(maxsize=8)
def prepared_of(bench: str, objective: str, seed: int, models: str | None, rows: str) -> tuple[Any, Any]:
    """Return recipe and rows; kept, since the points of a seed read the same ones."""
    from temper.unlearn.prepare import prepare

    recipe = recipe_of(bench, objective, seed, models, _tofu_rows(Path(rows)) if bench == "tofu" else {})
    return recipe, prepare(recipe)


@functools.lru_cache(maxsize=2)
def reading_rows(bench: str, models: str | None, rows: str) -> tuple[dict[str, Any], int]:
    """Return name to the encoded rows that are read, and the id that fills."""
    from temper.data import load_role
    from temper.models.load import load_tokenizer, pad_id_of
    from temper.recipe import DataSource, WorldSection

    files = _tofu_rows(Path(rows)) if bench == "tofu" else {}
    tokenizer = load_tokenizer(path_of(bench, models, "original"), world=WorldSection())
    found = {}
    for name, (source, count) in READ[bench].items():
        encoded = load_role(
            name,
            [DataSource(**_source(bench, source, files))],
            tokenizer,
            world=WorldSection(),
            max_length=256,
            overflow="error",
        )
        every = max(1, len(encoded.items) // count)
        found[name] = encoded.items[::every][:count]
    return found, pad_id_of(tokenizer)


def path_of(bench: str, models: str | None, which: str) -> str:
    """Return where a model lies: original or gold."""
    return f"world:{which}" if bench == "world" else str(Path(str(models)) / which)
