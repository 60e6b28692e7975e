"""The tour behind `temper demo`, R2MU's story: what RMU leaves in the trace, what taking it out costs, and how reasoning is kept."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from temper.assess.evidence import Evidence
from temper.jobs import Job, run_jobs
from temper.run import Progress

__all__ = ["RECIPES", "Tour", "forget_and_judge", "tour"]

RECIPES: Final = ("tiny/rmu.yaml", "tiny/r2mu-v0.yaml", "tiny/r2mu.yaml")


@dataclass(frozen=True)
class Tour:
    """What the tour found.

    Attributes:
        evidences: One for each way to forget.
        headlines: What the numbers say, in words.
        page: The report.
        wall_s: How long it took.
    """

    evidences: list[Evidence]
    headlines: list[str]
    page: Path
    wall_s: float

    def facts(self) -> dict[str, Any]:
        """Return the result as JSON."""
        return {
            "report": str(self.page),
            "wall_s": round(self.wall_s, 1),
            "headlines": self.headlines,
            "evidence": [evidence.model_dump(mode="json") for evidence in self.evidences],
        }


def forget_and_judge(recipe: str, overrides: list[str], folder: str) -> str:
    """Unlearn by a recipe and assess the result; returns the run folder."""
    from temper import assess, unlearn
    from temper.recipe import load

    wanted = load(recipe, overrides)
    assess.check(wanted)
    run_folder = unlearn.run(wanted, Path(folder))
    assess.run(run_folder)
    return str(run_folder)


def tour(out: Path, *, size: str = "default", seed: int = 0, workers: int = 2, progress: Progress | None = None) -> Tour:
    """Run the tour; what an earlier call finished is not done again.

    Args:
        out: Folder of the runs and of the report.
        size: Size of the world.
        seed: Seed of the world and of the runs.
        workers: Processes side by side.
        progress: Called with (stage, done, total, note).
    """
    from temper.report.columns import columns
    from temper.report.compare import compare
    from temper.report.headlines import judge
    from temper.world import build, world_spec

    begun = time.monotonic()
    build(world_spec(size, seed), gold=True, progress=progress, workers=workers)
    overrides = [f"world.size={size}", f"world.seed={seed}", f"seed={seed}"]
    jobs = [
        Job(
            Path(recipe).stem,
            "temper.report.tour:forget_and_judge",
            {"recipe": recipe, "overrides": overrides, "folder": str(out / Path(recipe).stem)},
        )
        for recipe in RECIPES
    ]
    folders = [Path(folder) for folder in run_jobs(jobs, backend="processes", workers=workers, progress=progress).values()]
    evidences = [Evidence.read(folder / "evidence.json") for folder in folders]
    page = compare(folders, out, title="The answer is gone. Is the knowledge?")
    said = judge(columns(evidences))
    lines = [line for headline in said for line in (headline.sentence, *(f"  {detail}" for detail in headline.details))]
    return Tour(evidences, lines, page, time.monotonic() - begun)
