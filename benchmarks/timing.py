"""What every benchmark shares: CPU seconds of this process, and one line of JSON as the result."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["alternating", "cpu_seconds", "cpu_seconds_of", "report"]


def cpu_seconds_of() -> float:
    """Return user plus system seconds of this process: what a busy machine does not change much."""
    return time.process_time()


@contextmanager
def cpu_seconds() -> Iterator[dict[str, float]]:
    """Measure the block: fills `cpu` and `wall`."""
    found: dict[str, float] = {}
    cpu, wall = time.process_time(), time.perf_counter()
    yield found
    found["cpu"], found["wall"] = time.process_time() - cpu, time.perf_counter() - wall


def alternating(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the least CPU seconds of each way; ways take turns, so that a slow spell of the machine meets all of them."""
    for run in ways.values():
        run()
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, run in ways.items():
            with cpu_seconds() as spent:
                run()
            best[name] = min(best[name], spent["cpu"])
    return best


def report(claim: str, result: dict[str, Any], bar: float, ratio: float, *, at_least: bool) -> None:
    """Print the result as JSON and leave with 1 where the claim's bar was missed."""
    met = ratio >= bar if at_least else ratio <= bar
    sys.stdout.write(json.dumps({"claim": claim, "ratio": round(ratio, 3), "bar": bar, "met": met, **result}, indent=2) + "\n")
    sys.exit(0 if met or os.environ.get("TEMPER_BENCH_LENIENT") else 1)
