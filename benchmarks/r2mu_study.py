"""The study of R2MU on the embedded world: eleven ways to unlearn, three seeds each, both forms of the leak; a table and the bars that are held.

    python benchmarks/r2mu_study.py [--seeds 0 1 2] [--world-seed 0] [--only rmu r2mu] [--workers 2] [--out runs/r2mu_study] [--table FILE]

Each run is an ordinary recipe of `recipes/tiny` through `temper.unlearn` and `temper.assess`, in worker processes of one thread. What is
done lies in OUT/done and is not done again; a change of recipe, rows or metrics makes a run anew. Every number of the table is measured.

| people | rows | why |
| --- | --- | --- |
| forget | all, in unseen words | what is to go |
| retain | the first of the retain data, in unseen words | whom the run was told to keep; the bars are on them |
| neighbours | as many whom the model knows and no batch ever holds | what is lost beside |

A cell is the mean over seeds with the value of each seed in brackets. A number that was not measured is a dash, and the reason stands
below the table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study_page import Line, page

from temper.errors import TemperError
from temper.files import hash_json, write_json, write_text
from temper.jobs import Job, run_jobs

RETAINED, STORIES, REASONED = 240, 100, 160


@dataclass(frozen=True)
class Variant:
    """One way to unlearn.

    Attributes:
        title: In the table.
        recipe: Which shipped recipe.
        overrides: Changes to it.
        decoding: A mode that is asked beside the rows' own, with a line of its own in the table.
    """

    title: str
    recipe: str
    overrides: list[str] = field(default_factory=list)
    decoding: str | None = None


SHIPPED_TRACES = "data.trace={path: world:forget_think}"
STORIES_ALONE = "data.reasoning={path: world:stories}"
VARIANTS: dict[str, Variant] = {
    "graddiff": Variant("GradDiff", "tiny/graddiff.yaml"),
    "npo": Variant("NPO", "tiny/npo.yaml"),
    "rmu": Variant("RMU (A)", "tiny/rmu.yaml", decoding="zero_thinking"),
    "rtp": Variant("RMU (A) + reflection penalty", "tiny/rmu-rtp.yaml"),
    "v0": Variant("R2MU-v0: no preservation (A)", "tiny/r2mu-v0.yaml"),
    "r2mu": Variant("**R2MU (A)**", "tiny/r2mu.yaml"),
    "sam": Variant("R2MU + SAM (A)", "tiny/r2mu-sam.yaml"),
    "stories": Variant("R2MU, arithmetic alone as D_CoT (A)", "tiny/r2mu.yaml", [STORIES_ALONE]),
    "shipped": Variant("R2MU, traces that ship with the world (A)", "tiny/r2mu.yaml", [SHIPPED_TRACES]),
    "rmu_b": Variant("RMU (B)", "tiny/rmu-form-b.yaml"),
    "r2mu_b": Variant("R2MU (B)", "tiny/r2mu-form-b.yaml"),
}
_READING = 2
"""Of what the numbers mean; another one makes every number anew."""
METRICS = ("answer_accuracy", "trace_leak", "trace_category", "trace_perplexity")
MASKS = ("mask", "trace_mask", "retain_mask", "reasoning_mask")
PEOPLE = {
    "neighbour": ("eval_retain", "eval_retain_think", "eval_retain_reasoning"),
    "retain": ("eval_used", "eval_used_think", "eval_used_reasoning"),
}
"""Whose answers beside the forget people's; the last one's evidence stays in the run folder."""


def evaluation(people: str, decoding: str | None) -> dict[str, Any]:
    """Return the section `evaluate` for the forget people and one group of others."""
    from temper import registry

    direct, thought, reasoned = PEOPLE[people]
    data = {
        "forget": {"path": "world:eval_forget"},
        "trace": {"path": "world:eval_forget_think"},
        "retain": {"path": f"world:{direct}", "limit": RETAINED},
        "retain_trace": {"path": f"world:{thought}", "limit": RETAINED},
        "reasoning": {"path": f"world:{reasoned}", "limit": REASONED},
        "general": {"path": "world:eval_stories", "limit": STORIES},
    }
    probes: list[Any] = [{"relearning": {"data": [{"path": "world:forget_direct"}]}}]
    if people == "neighbour":
        # the forget people are asked once; what is measured of them here is whether thinking answers come back
        data |= {"forget": {"path": "world:eval_forget_think"}, "trace": {"path": "world:eval_forget_reasoning"}}
        data["general"] = {"path": "world:eval_background"}
        probes = [{"relearning": {"data": [{"path": "world:forget_think"}]}}]
    return {
        "gold": "world:gold",
        "metrics": [name for name in METRICS if name in registry.names("metric")],
        "data": data,
        "probes": probes,
        "decoding": [] if decoding is None or people == "neighbour" else [decoding],
    }


def measure(recipe: str, overrides: list[str], evaluations: dict[str, Any], folder: str) -> dict[str, Any]:
    """Unlearn and judge; return model to people to METRIC/ROLE to [value, n, reason], and the CPU seconds of training."""
    from temper import assess, unlearn
    from temper.recipe import load

    run = unlearn.run(load(recipe, overrides), Path(folder))
    found: dict[str, Any] = {}
    for people, section in evaluations.items():
        evidence = assess.run(run, overrides=[f"evaluate={json.dumps(section)}"])
        for result in evidence.results:
            given = found.setdefault(result.model, {}).setdefault(people, {})
            given[f"{result.metric}/{result.role}"] = [result.value, result.n, result.reason]
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return {"numbers": found, "cpu_s": None if evidence.cost is None else evidence.cost.cpu_s}


def jobs(names: Sequence[str], seeds: Sequence[int], world_seed: int, out: Path) -> dict[str, list[Job]]:
    """Return the jobs of each variant, one a seed; their keys hold the hash of all that decides the numbers."""
    from temper.recipe import load, recipe_hash

    found: dict[str, list[Job]] = {}
    for name in names:
        variant = VARIANTS[name]
        evaluations = {people: evaluation(people, variant.decoding) for people in PEOPLE}
        for seed in seeds:
            overrides = [*variant.overrides, f"seed={seed}", f"world.seed={world_seed}"]
            identity = hash_json([recipe_hash(load(variant.recipe, overrides)), evaluations])
            folder = f"{name}-{world_seed}-{seed}-{identity[:10]}"  # a new reading judges the trained model again, it trains none
            key = f"{name}-{world_seed}-{seed}-{hash_json([identity, _READING])[:10]}"
            arguments = {"recipe": variant.recipe, "overrides": overrides, "evaluations": evaluations}
            found.setdefault(name, []).append(Job(key, "r2mu_study:measure", {**arguments, "folder": str(out / "runs" / folder)}))
    return found


def lines(names: Sequence[str]) -> list[Line]:
    """Return the lines of the tables: the models to compare with, then each variant, and its decoding mode below it."""
    found = [Line("original", names[0], "original"), Line("gold (retrained)", names[0], "gold")]
    for name in names:
        variant = VARIANTS[name]
        found.append(Line(variant.title, name))
        if variant.decoding is not None:
            found.append(Line(f"{variant.title}, {variant.decoding.replace('_', '-')} decoding", name, mode=variant.decoding))
    return found


def said(variant: Variant) -> str:
    """Return the settings of a variant as an entry of a list: its recipe, what it changes, and which tokens it steers and holds."""
    from temper.recipe import load

    method = load(variant.recipe, variant.overrides).method
    masks = [f"{name} {getattr(method, name)}" for name in MASKS if hasattr(method, name)] if hasattr(method, "mask") else []
    changes = [f"with `{override}`" for override in variant.overrides]
    return f"- {variant.title}: " + ", ".join([f"`{variant.recipe}`", *changes, *masks])


def main() -> None:
    """Run what is missing, print the page and write it."""
    parser = argparse.ArgumentParser(description="The study of R2MU on the embedded world.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the runs")
    parser.add_argument("--world-seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="VARIANT", help=", ".join(VARIANTS)
    )
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, default=Path("runs/r2mu_study"))
    parser.add_argument("--table", type=Path, help="where the page is written, beside OUT/study.md")
    given = parser.parse_args()
    from temper.models.load import resolve_path
    from temper.recipe import WorldSection

    try:
        resolve_path("world:original", WorldSection(seed=given.world_seed))  # built once, before the workers start
        planned = jobs(given.only, given.seeds, given.world_seed, given.out)
        done = run_jobs(
            [job for group in planned.values() for job in group],
            backend="processes",
            workers=given.workers,
            folder=given.out / "done",
            progress=lambda stage, count, total, note: print(f"{stage}: {count}/{total} {note}", file=sys.stderr, flush=True),
        )
    except TemperError as error:
        sys.exit(f"error: {error}")
    results = {name: [done[job.key] for job in group] for name, group in planned.items()}
    setting = (
        f"Written by `make study`. World {given.world_seed} of the default size, run seeds {', '.join(map(str, given.seeds))}; a cell is the mean over "
        "seeds, with each seed's value in brackets where they differ. Greedy decoding. Form A steers the answers of direct questions, "
        "form B the final answers of thinking ones. Retain: people of the retain data in unseen words; neighbours: people the model knows "
        "and no batch ever held."
    )
    text = page(lines(given.only), results, setting, [said(VARIANTS[name]) for name in given.only])
    print(text)
    write_json(given.out / "results.json", results)
    for place in (given.out / "study.md", given.table):
        if place is not None:
            write_text(place, text)


if __name__ == "__main__":
    main()
