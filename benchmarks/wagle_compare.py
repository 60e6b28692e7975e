"""Comparing the runs of the study of WAGLE: numbers of seeds at equal forget loss, their differences, and what those show.

A difference is taken seed by seed where both runs reached the level.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wagle_bench import BENCHES

if TYPE_CHECKING:
    from wagle_study import Way

__all__ = [
    "KEPT", "MAIN", "OBJECTIVES", "Points", "Seeds", "at", "baseline", "difference", "done", "pairs", "shared_level", "speeds", "spread", "verdicts",
]  # fmt: skip

OBJECTIVES = {"graddiff": "GradDiff", "npo": "NPO", "po": "PO", "rmu": "RMU"}
MAIN = {"world": 0.5, "tofu": 0.25}
"""The level of the long tables of each bench, as a share of the way from the original's forget loss to gold's."""
KEPT = "neighbour.loss"
"""What is compared: the loss on people whom the model knows and no batch holds, nats a token."""
_SEEDS = 4
"""Fewer seeds than this decide nothing."""

Seeds = Sequence[Mapping[str, Any] | None]
"""The point of each seed; None where it is still to be run."""
Points = Mapping[str, Seeds]
"""Way to the points of its seeds."""


def done(points: Seeds) -> list[Mapping[str, Any]]:
    """Return the points that have been run."""
    return [point for point in points if point is not None]


def at(points: Seeds, level: int, what: str) -> list[float | None]:
    """Return a number of each seed at a level; None where it was not reached."""
    read = [None if point is None else point["levels"][level] for point in points]
    return [None if found is None else float(found[what]) for found in read]


def spread(values: Sequence[float | None], digits: int = 2, times: float = 1.0) -> str:
    """Return mean ± standard deviation of what is there.

    Example:
        >>> spread([1.0, 3.0, None]), spread([0.5]), spread([None])
        ('2.00 ± 1.41', '0.50', '-')
    """
    there = [times * value for value in values if value is not None]
    if not there:
        return "-"
    mean = f"{statistics.fmean(there):.{digits}f}"
    return mean if len(there) == 1 else f"{mean} ± {statistics.stdev(there):.{digits}f}"


def pairs(mine: Sequence[float | None], other: Sequence[float | None]) -> list[float]:
    """Return mine minus other for the seeds where both are there."""
    return [a - b for a, b in zip(mine, other, strict=True) if a is not None and b is not None]


def difference(mine: Sequence[float | None], other: Sequence[float | None]) -> str:
    """Return the mean difference and in how many seeds it is below 0.

    Example:
        >>> difference([1.0, 2.0, None], [1.5, 1.0, 2.0])
        '+0.25 (1/2)'
    """
    found = pairs(mine, other)
    return f"{statistics.fmean(found):+.2f} ({sum(value < 0 for value in found)}/{len(found)})" if found else "-"


def baseline(way: Way, points: Points) -> str | None:
    """Return the random masks with the same share and the same learning rate."""
    if way.ratio is None or way.name == "random":
        return None
    found = f"random-{way.ratio:g}" + ("" if way.rate is None else f"-x{way.rate:.3g}")
    return found if done(points.get(found, ())) else None


def verdicts(found: Mapping[str, Any], ways: Sequence[Way], against: str) -> dict[str, list[str]]:
    """Return the comparisons of WAGLE, by what they show, each at the level of the tables or the next lower one that enough seeds reached.

    Args:
        found: Bench to its results.
        ways: In the order of the tables.
        against: `random` with the same ratio, or `dense`.

    Returns:
        `better` (lower neighbour loss on average, and in at least 4 of 5 seeds), `worse` (the same the other way), `open`, `not reached`.
    """
    result: dict[str, list[str]] = {"better": [], "worse": [], "open": [], "not reached": []}
    for bench, results in found.items():
        top = list(results["shares"]).index(MAIN[bench])
        for objective, points in results["points"].items():
            for way in ways:
                other = "all" if against == "dense" else baseline(way, points)
                if way.name != "wagle" or other is None or not (done(points.get(way.key, ())) and done(points.get(other, ()))):
                    continue
                where = f"{OBJECTIVES[objective]}, {BENCHES[bench].title}, ratio {way.ratio:g}{_remark(way)}"
                level, differences = shared_level(points, way.key, other, top)
                if level is None:
                    result["not reached"].append(where)
                    continue
                lower = sum(value < 0 for value in differences)
                higher = sum(value > 0 for value in differences)
                mean, enough = statistics.fmean(differences), 0.8 * len(differences)
                is_enough = len(differences) >= _SEEDS
                kind = "better" if is_enough and mean < 0 and lower >= enough else "open"
                kind = "worse" if is_enough and mean > 0 and higher >= enough else kind
                at_level = "" if level == top else f" (at {100 * results['shares'][level]:g} %)"
                result[kind].append(f"{where}{at_level}: {mean:+.3f} nats, lower in {lower} of {len(differences)}")
    return result


def _remark(way: Way) -> str:
    if "relative" in way.key:
        return ", γ_H relative"
    return "" if way.rate is None else ", the learning rate of dense"


def shared_level(points: Points, one: str, other: str, top: int) -> tuple[int | None, list[float]]:
    """Return the highest level up to `top` that four of five seeds of both reached, and the differences there."""
    seeds = sum(a is not None and b is not None for a, b in zip(points[one], points[other], strict=True))
    for level in range(top, -1, -1):
        differences = pairs(at(points[one], level, KEPT), at(points[other], level, KEPT))
        if differences and len(differences) >= 0.8 * seeds:
            return level, differences
    return None, []


def speeds(found: Mapping[str, Any], ways: Sequence[Way]) -> list[float]:
    """Return how many steps random masks need for each that WAGLE needs, at the level each comparison is made at; means over seeds."""
    ratios = []
    for bench, results in found.items():
        top = list(results["shares"]).index(MAIN[bench])
        for points in results["points"].values():
            for way in ways:
                other = baseline(way, points)
                if way.name != "wagle" or other is None or not done(points.get(way.key, ())):
                    continue
                level, _ = shared_level(points, way.key, other, top)
                if level is not None:
                    mine, theirs = at(points[way.key], level, "step"), at(points[other], level, "step")
                    both = [b / a for a, b in zip(mine, theirs, strict=True) if a is not None and b is not None]
                    ratios.append(statistics.fmean(both))
    return ratios
