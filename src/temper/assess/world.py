"""The examination of the embedded world's models: what they know, against the bars a built world has to clear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from temper.models.generation import generate
from temper.models.load import load_model, load_tokenizer
from temper.recipe import WorldSection
from temper.run import Progress
from temper.world import SUBSETS, TARGETS, Figure, World, WorldSpec, exam

__all__ = ["Exam", "examine"]

_BATCH: Final = 128


@dataclass(frozen=True)
class Exam:
    """Accuracies of one model.

    Attributes:
        figures: Subset of questions to its accuracy and the number of questions.
    """

    figures: Mapping[str, Figure]

    @property
    def is_passed(self) -> bool:
        """Return whether every bar is cleared."""
        return all(target.key in self.figures and target.met_by(self.figures[target.key]["value"]) for target in TARGETS)

    def lines(self) -> list[str]:
        """Return a line a subset for people: its accuracy, its bar and whether it is cleared."""
        bars = {target.key: target for target in TARGETS}
        width = max(len(name) for name in self.figures)
        lines = []
        for name, figure in self.figures.items():
            line = f"{name:<{width}}  {figure['value']:.3f}  n={figure['n']:<4}"
            if bar := bars.get(name):
                line += f"  {bar.side} {bar.bound:.2f}: {'met' if bar.met_by(figure['value']) else 'NOT MET'}"
            lines.append(line.rstrip())
        return lines

    def facts(self) -> dict[str, Any]:
        """Return the same as JSON."""
        bars = {target.key: target for target in TARGETS}
        return {
            name: {
                **figure,
                **({"side": bar.side, "bound": bar.bound, "met": bar.met_by(figure["value"])} if (bar := bars.get(name)) else {}),
            }
            for name, figure in self.figures.items()
        }


def examine(model_folder: Path, spec: WorldSpec, *, progress: Progress | None = None) -> Exam:
    """Return how a model answers the questions of a world.

    The bars are those of the original model; a gold model is meant to miss nothing but the forget subsets, which have none.

    Args:
        model_folder: A model of that world.
        spec: The world.
        progress: Called after each subset of questions.
    """
    torch.set_num_threads(1)
    world = WorldSection(size=spec.size, seed=spec.seed)
    model = load_model(str(model_folder), world=world)
    tokenizer = load_tokenizer(str(model_folder), world=world)

    def answer(prompts: list[str], max_new_tokens: int) -> list[str]:
        return generate(model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=_BATCH)

    asked = World(spec)
    figures: dict[str, Figure] = {}
    for done, subset in enumerate(SUBSETS):
        if progress is not None:
            progress("exam", done, len(SUBSETS), subset)
        figures |= exam(asked, answer, on=[subset])
    if progress is not None:
        progress("exam", len(SUBSETS), len(SUBSETS), "")
    return Exam(figures)
