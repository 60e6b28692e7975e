"""The study of WAGLE: four objectives, what may train, five seeds; what is kept at equal forget loss. One command, tables and figures.

    python benchmarks/wagle_study.py [--tofu MODELS] [--seeds 0 1 2 3 4] [--only npo rmu] [--workers 2] [--out runs/wagle_study] [--docs docs]

The embedded world is built where it is not yet. MODELS is the folder that `benchmarks/real/tofu_models.py` wrote (TEMPER_REAL_DATA names
the rows); without it that half is left out. A point is one short run of `wagle_point.measure` in a worker process of one thread; what is
done lies in OUT/done, one JSON file a point, and is not done again.

A run ends when the forget loss, in a wording that no batch holds, has passed the last level. Everything is read at the levels, on the straight
line between the looks on both sides, so what is compared is what is kept at equal forget loss, whatever number of steps that took.

What a seed changes: the order of rows, which retain rows meet which forget rows, RMU's direction, the random mask, the adapter's start,
and the retain rows of WAGLE's gradient. The model is the same one.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wagle_bench import BENCHES, OBJECTIVES, READ
from wagle_figure import differences_of, figure_of
from wagle_page import page

from temper.errors import TemperError
from temper.files import hash_json, write_json, write_text
from temper.jobs import Job, run_jobs

_READING = 1
"""Of what the numbers mean; another one makes every number anew."""
LEVELS = {"world": (0.1, 0.25, 0.5, 1.0), "tofu": (0.1, 0.25)}
"""Where everything is read: shares of the way from the forget loss of the original to that of gold. Gold of TOFU is surer of wrong answers
than a guess among all tokens would be (9.6 nats against ln 2,500 = 7.8), so a level near its own would ask for damage, not for forgetting."""


@dataclass(frozen=True)
class Way:
    """What may train.

    Attributes:
        title: In the table.
        name: The selection.
        settings: Of it.
        rate: Times the learning rate of the objective; None divides it by the root of the share that trains.
        benches: Where it is run.
        turn: When its points are run: those of turn 0 first, so that what is done of a study that was stopped can be read.
    """

    title: str
    name: str
    settings: Mapping[str, Any]
    rate: float | None = None
    benches: tuple[str, ...] = ("world", "tofu")
    turn: int = 0

    @property
    def key(self) -> str:
        """Return what names its files."""
        ratio = f"-{self.settings['ratio']:g}" if "ratio" in self.settings else ""
        kind = f"-{mode}" if (mode := self.settings.get("gamma_mode")) else ""
        return f"{self.name}{ratio}{kind}" + ("" if self.rate is None else f"-x{self.rate:.3g}")

    @property
    def ratio(self) -> float | None:
        """Return the share of the weights that train, of those that compete; None without a mask."""
        return self.settings.get("ratio")

    def selection(self) -> dict[str, Any]:
        """Return the section of a recipe."""
        return {self.name: dict(self.settings)}


TITLES = {"random": "random", "magnitude": "magnitude", "wanda": "Wanda", "wagle": "**WAGLE**"}
WORLD = ("world",)


def ways() -> list[Way]:
    """Return every way to choose what trains, in the order of the tables."""
    found = [Way("dense", "all", {}), Way("dense, a third of the learning rate", "all", {}, 0.333, WORLD, 1)]
    lora = {"rank": 8, "alpha": 32, "target": ["q_proj", "v_proj"]}
    found += [Way("LoRA, 5 times the learning rate", "lora", lora, 5.0)]
    found += [Way("LoRA, the learning rate of dense", "lora", lora, 1.0, WORLD, 2)]
    for ratio in (0.05, 0.2, 0.8):
        for name, title in TITLES.items():
            both = ratio == 0.2
            turn = 0 if both or name in ("random", "wagle") else 2
            found.append(Way(title, name, {"ratio": ratio}, None, ("world", "tofu") if both else WORLD, turn))
    balanced = {"ratio": 0.2, "gamma": 1.0, "gamma_mode": "relative"}
    found.append(Way("WAGLE, γ_H relative, q = 1", "wagle", balanced, None, WORLD, 1))
    found.append(Way("SNIP (γ_H → ∞)", "snip", {"ratio": 0.2}, None, WORLD, 1))
    for name in ("random", "wagle"):
        found.append(Way(f"{TITLES[name]}, the learning rate of dense", name, {"ratio": 0.2}, 1.0, WORLD, 1))
    return found


def jobs(
    bench: str, levels: Sequence[float], objectives: Sequence[str], seeds: Sequence[int], out: Path, models: str | None
) -> Iterator[tuple[tuple[str, str, int], Job]]:
    """Yield (objective, way, seed) and its job: turn after turn, seed after seed, so that a part of a study is whole in itself."""
    chosen = [way for way in ways() if bench in way.benches]
    order = [(seed, objective, way) for seed in seeds for objective in objectives for way in chosen]
    for seed, objective, way in sorted(order, key=lambda point: point[2].turn):
        arguments: dict[str, Any] = {
            "bench": bench,
            "objective": objective,
            "selection": way.selection(),
            "seed": seed,
            "levels": list(levels),
            "rate": way.rate,
            "rows": str(out / "rows"),
            "models": models,
        }
        told = {key: value for key, value in arguments.items() if key not in ("rows", "models")}
        identity = hash_json([told, asdict(BENCHES[bench]), READ[bench], _READING])
        yield (
            (objective, way.key, seed),
            Job(f"{bench}-{objective}-{way.key}-{seed}-{identity[:8]}", "wagle_point:measure", arguments),
        )


def _told(stage: str, count: int, total: int, note: str = "") -> None:
    print(f"{stage}: {count}/{total} {note}", file=sys.stderr, flush=True)


def study(
    bench: str, objectives: Sequence[str], seeds: Sequence[int], out: Path, models: str | None, workers: int
) -> dict[str, Any]:
    """Return what was read of the models to compare with, the levels and every point.

    Args:
        bench: world or tofu.
        objectives: Their names.
        seeds: Of the runs.
        out: Where points lie.
        models: The folder of the models of TOFU.
        workers: Processes that run what is missing; 0 runs nothing, and a point that is not there is None.
    """
    base = Job(
        f"{bench}-reference-{hash_json([READ[bench], _READING])[:8]}",
        "wagle_point:reference",
        {"bench": bench, "models": models, "rows": str(out / "rows")},
    )
    before = run_jobs([base], folder=out / "done")[base.key]
    low, high = (before[which]["forget.loss"] for which in ("original", "gold"))
    levels = [round(low + share * (high - low), 4) for share in LEVELS[bench]]
    planned = dict(jobs(bench, levels, objectives, seeds, out, models))
    wanted = list(planned.values())
    if workers:
        done = run_jobs(wanted, backend="processes", workers=workers, folder=out / "done", progress=_told)
    else:
        there = [job for job in wanted if (out / "done" / f"{job.key}.json").is_file()]
        done = run_jobs(there, folder=out / "done")
    points: dict[str, dict[str, list[Any]]] = {}
    for (objective, way, _), job in planned.items():
        points.setdefault(objective, {}).setdefault(way, []).append(done.get(job.key))
    return {"reference": before, "shares": LEVELS[bench], "levels": levels, "points": points}


def main() -> None:
    """Run what is missing, print the page and write it with its figures."""
    parser = argparse.ArgumentParser(description="The study of WAGLE.")
    parser.add_argument("--tofu", type=Path, help="the folder of tofu_models.py; without it TOFU is left out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES), metavar="OBJECTIVE")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="0 writes the page of what is done")
    parser.add_argument("--out", type=Path, default=Path("runs/wagle_study"))
    parser.add_argument("--docs", type=Path, help="where wagle_study.md and img/wagle-BENCH.svg are written, beside OUT")
    given = parser.parse_args()
    from temper.models.load import resolve_path
    from temper.recipe import WorldSection

    found: dict[str, Any] = {}
    try:
        resolve_path("world:gold", WorldSection())  # built once, before the workers start
        for bench in BENCHES:
            if bench == "world" or given.tofu is not None:
                models = None if bench == "world" else str(given.tofu)
                found[bench] = study(bench, given.only, given.seeds, given.out, models, given.workers)
    except TemperError as error:
        sys.exit(f"error: {error}")
    text = page(found, ways(), given.seeds)
    print(text)
    write_json(given.out / "results.json", found)
    for place in (given.out, given.docs):
        if place is not None:
            write_text(place / ("study.md" if place == given.out else "wagle_study.md"), text)
            (place / "img").mkdir(parents=True, exist_ok=True)
            for bench, results in found.items():
                write_text(place / "img" / f"wagle-{bench}.svg", figure_of(bench, results, ways()))
                write_text(place / "img" / f"wagle-{bench}-differences.svg", differences_of(bench, results, ways()))


if __name__ == "__main__":
    main()
