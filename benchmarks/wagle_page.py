"""What the study of WAGLE shows: tables and sentences out of its numbers. Nothing here runs a model; see `wagle_study.py`.

A cell is the mean over seeds ± the standard deviation (n - 1). A difference is taken seed by seed, with the number of seeds in which it is below
0 behind it; only seeds in which both runs reached the level are counted. The sentences are chosen by rules of the numbers that stand
beside them: five seeds that all agree happen by chance in one of sixteen comparisons (two sides), and there are many comparisons.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wagle_bench import BENCHES
from wagle_compare import KEPT, MAIN, OBJECTIVES, Points, at, baseline, difference, done, shared_level, speeds, spread, verdicts

if TYPE_CHECKING:
    from wagle_study import Way

__all__ = ["page"]


def _table(points: Points, ways: Sequence[Way], level: int, bench: str) -> str:
    unit = "right" if bench == "world" else "tokens"
    heads = [
        "what trains",
        "ratio",
        "weights that train, %",
        "reached",
        "steps",
        "forget right, %",
        "forget loss, wording of training",
    ]
    heads += ["neighbour loss", "minus random (lower in)", "minus dense (lower in)", "neighbours right, %", "retain right, %"]
    heads += ["reasoning right, %", "background right, %"] if bench == "world" else []
    rows = [[*heads, "training, CPU s"], ["---"] * (len(heads) + 1)]
    dense = at(points["all"], level, KEPT) if done(points.get("all", ())) else None
    for way in ways:
        if not done(points.get(way.key, ())):
            continue
        mine = points[way.key]
        kept, other = at(mine, level, KEPT), baseline(way, points)
        row = [
            way.title,
            "" if way.ratio is None else f"{way.ratio:g}",
            f"{100 * statistics.fmean(point['share'] for point in done(mine)):.1f}",
            f"{sum(value is not None for value in kept)}/{len(done(mine))}",
            spread(at(mine, level, "step"), 0),
            spread(at(mine, level, f"forget.{unit}"), 0, 100),
            spread(at(mine, level, "forget_seen.loss")),
            spread(kept),
            "" if other is None else difference(kept, at(points[other], level, KEPT)),
            "" if dense is None or way.key == "all" else difference(kept, dense),
            spread(at(mine, level, f"neighbour.{unit}"), 1, 100),
            spread(at(mine, level, f"retain.{unit}"), 1, 100),
        ]
        if bench == "world":
            row += [spread(at(mine, level, f"{name}.right"), 1, 100) for name in ("reasoning", "general")]
        rows.append([*row, spread([point["cpu_s"] for point in done(mine)], 1)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _levels_table(points: Points, ways: Sequence[Way], shares: Sequence[float]) -> str:
    rows = [
        ["what trains", "ratio", *(f"at {100 * share:g} %" for share in shares)],
        ["---"] * (2 + len(shares)),
    ]
    for way in ways:
        if not done(points.get(way.key, ())):
            continue
        mine, other = points[way.key], baseline(way, points)
        cells = []
        for level in range(len(shares)):
            kept = at(mine, level, KEPT)
            total, reached = len(done(mine)), sum(value is not None for value in kept)
            cell = spread(kept) + (f", {reached} of {total} seeds" if 0 < reached < total else "")
            against = "" if other is None else difference(kept, at(points[other], level, KEPT))
            cells.append(f"{cell}; {against}" if against not in ("", "-") else cell)
        rows.append([way.title, "" if way.ratio is None else f"{way.ratio:g}", *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _overview(found: Mapping[str, Any], ways: Sequence[Way]) -> str:
    """Return the differences to random masks of a fifth of the weights, a line a way, a column an objective of a bench."""
    columns = [(bench, objective) for bench, results in found.items() for objective in results["points"]]
    rows = [["what trains", *(f"{OBJECTIVES[objective]}, {BENCHES[bench].title}" for bench, objective in columns)]]
    rows.append(["---"] * len(rows[0]))
    for way in ways:
        if way.key == "random-0.2" or way.ratio not in (None, 0.2):
            continue
        cells = []
        for bench, objective in columns:
            results = found[bench]
            points = results["points"][objective]
            top = list(results["shares"]).index(MAIN[bench])
            both = done(points.get(way.key, ())) and done(points.get("random-0.2", ()))
            level, values = shared_level(points, way.key, "random-0.2", top) if both else (None, [])
            cell = "-" if level is None else f"{statistics.fmean(values):+.3f} ({sum(v < 0 for v in values)}/{len(values)})"
            cells.append(cell if level in (None, top) else f"{cell} at {100 * results['shares'][level]:g} %")
        if set(cells) != {"-"}:
            rows.append([way.title, *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _said(found: Mapping[str, Any], ways: Sequence[Way]) -> list[str]:
    """Return what the comparisons show, in lists."""
    lines = [
        "",
        "Neighbour loss minus that of random masks of a fifth of the weights, at equal forget loss, nats; below 0 more is kept. In brackets: in how many "
        "seeds it is below 0.",
        "",
        _overview(found, ways),
    ]
    for against, words in (("random", "random masks of the same ratio and learning rate"), ("dense", "training all weights")):
        sides = verdicts(found, ways, against)
        total = sum(len(part) for part in sides.values())
        lines += [
            "",
            f"### WAGLE against {words}",
            "",
            f"{total} comparisons, at the level of the tables or, where fewer than 4 of 5 seeds of both got there, at the next lower one (it is named): "
            f"neighbour loss lower in {len(sides['better'])}, higher in {len(sides['worse'])}, undecided in {len(sides['open'])}. Lower or higher is said "
            "where the mean and at least 4 of 5 seeds agree.",
        ]
        headings = {
            "better": f"WAGLE keeps more than {against}",
            "worse": f"WAGLE is not better than {against}: it keeps less",
            "open": f"WAGLE is not shown to be better than {against}: seeds disagree",
            "not reached": "Not comparable: too few seeds got to the lowest level",
        }
        for kind, heading in headings.items():
            if sides[kind]:
                lines += ["", f"{heading}:", "", *(f"- {sentence}" for sentence in sides[kind])]
    ratios = speeds(found, ways)
    if ratios:
        faster = sum(ratio > 1 for ratio in ratios)
        lines += [
            "",
            "### Steps",
            "",
            f"WAGLE gets to the forget loss in fewer steps than random masks of the same ratio and rate in {faster} of {len(ratios)} comparisons; random masks "
            f"need {statistics.median(ratios):.1f} times as many in the median ({min(ratios):.1f} to {max(ratios):.1f}).",
        ]
    return lines


def _reference(results: Mapping[str, Any], bench: str) -> str:
    unit = "right" if bench == "world" else "tokens"
    names = [key.removesuffix(".loss") for key in results["reference"]["original"] if key.endswith(".loss")]
    rows = [["model", *(f"{name}: loss / {unit}, %" for name in names)], ["---"] * (1 + len(names))]
    for which, read in results["reference"].items():
        rows.append([which, *(f"{read[f'{name}.loss']:.2f} / {100 * read[f'{name}.{unit}']:.0f}" for name in names)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


HEAD = """# WAGLE on the embedded world and on TOFU: the study

Written by `make wagle-study`. Which weights may train, and what is kept at **equal forget loss**: a run is looked at every few steps and read where
its forget loss passes given levels, so a selection that moves slowly is not taken for one that is gentle. A level is a share of the way from the
forget loss of the original model to that of gold, the model that never saw the forget rows. The forget loss is asked in a wording that no batch holds.
*Neighbours* are people (authors) whom the model knows and no batch holds; *retain* people are those of the retain data, in unseen words in the
embedded world. Losses are nats a token, means over rows; lower is better for all but the forget rows. *Right*: the share of answers that greedy
decoding gets whole (of tokens, for TOFU).

Every selection has the learning rate of its objective, divided by the root of the share of weights that train, so that a step of Adam has about the
same norm; lines that say so have another one. LoRA (rank 8, α 32, q_proj and v_proj) has no mask. Wanda ranks linear layers in
blocks alone, so its share of all weights is smaller; RMU reads blocks 0 and 1, so what lies above does not train. WAGLE has γ_H = 1e-6 on mean
gradients. Masks are scored on the rows of the run (for PO with the refusals as forget responses)."""


def page(found: Mapping[str, Any], ways: Sequence[Way], seeds: Sequence[int]) -> str:
    """Return the page."""
    parts = [
        HEAD,
        "",
        f"Run seeds {', '.join(map(str, seeds))}; one model each. {_costs(found)}",
        "",
        "## What it shows",
        *_said(found, ways),
    ]
    for bench, results in found.items():
        place = BENCHES[bench]
        rates = ", ".join(f"{OBJECTIVES[name]} {rate:g}" for name, rate in place.rates.items())
        levels = ", ".join(f"{100 * s:g} %: {v:.2f}" for s, v in zip(results["shares"], results["levels"], strict=True))
        parts += [
            "",
            f"## {place.title}",
            "",
            f"At most {place.steps} steps of {place.batch} forget and {place.batch} retain rows, a look every {place.every} steps; AdamW, constant rate: "
            f"{rates}. "
            f"Levels of the forget loss: {levels}.",
            "",
            _reference(results, bench),
            "",
            f"![Neighbour loss against forget loss, {place.title}](img/wagle-{bench}.svg)",
            "",
            f"![WAGLE minus random masks, seed by seed, {place.title}](img/wagle-{bench}-differences.svg)",
        ]
        level = list(results["shares"]).index(MAIN[bench])
        for objective, points in results["points"].items():
            parts += [
                "",
                f"### {OBJECTIVES[objective]}, {place.title}",
                "",
                f"At {100 * MAIN[bench]:g} % of the way to gold:",
                "",
            ]
            parts += [_table(points, ways, level, bench)]
            parts += [
                "",
                "Neighbour loss at every level; minus random (lower in):",
                "",
                _levels_table(points, ways, results["shares"]),
            ]
    parts += ["", "## What it does not show", "", LIMITS]
    return "\n".join(parts) + "\n"


LIMITS = """- Two small models (0.3 and 2.4 million weights). Sizes of effects do not carry over to large ones.
- One model a bench: seeds change the run, not what the model has learned.
- The forget loss is a mean: two models with the same one can have forgotten different rows. The share of forget answers that are still right stands
  beside it.
- One learning rate a selection, and its rule (equal norm of a step) is one of several fair ones; the lines with other rates show how much it decides.
  Runs that take longer to a level have read more retain rows by then, which is part of what is compared.
- Runs end at the last level or the last step. What longer runs would repair is not measured.
- Many comparisons, few seeds: five seeds that agree happen by chance in one of sixteen comparisons of equals."""


def _costs(found: Mapping[str, Any]) -> str:
    points = [
        point
        for results in found.values()
        for ways in results["points"].values()
        for group in ways.values()
        for point in done(group)
    ]
    spent = sum(point["cpu_s"] + (point.get("score_cpu_s") or 0.0) for point in points)
    return f"{len(points)} runs, {spent / 60:.0f} CPU minutes of scoring and training on one thread each, without the looks."
