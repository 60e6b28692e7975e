"""What every benchmark shares: CPU seconds of this process, what the machine can do, and one JSON document as the result."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Bar", "alternating", "cpu_seconds", "multiplications_per_second", "report"]


@contextmanager
def cpu_seconds() -> Iterator[dict[str, float]]:
    """Measure the block: fills `cpu` (user plus system seconds, which a busy machine changes little) and `wall`."""
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


def multiplications_per_second(width: int) -> float:
    """Return how many multiply-adds a CPU second of this machine does in a product of a block: what turns a floor into seconds."""
    import torch

    left, right = torch.rand(2048, width), torch.rand(width, 3 * width)
    best = alternating({"product": lambda: [left @ right for _ in range(10)]}, repeats=10)
    return 10 * 2048 * width * 3 * width / best["product"]


@dataclass(frozen=True)
class Bar:
    """What a claim is held to: a value that is to be at most, or at least, a limit."""

    name: str
    value: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool:
        """Return whether the value is within the limit."""
        return (self.at_most is None or self.value <= self.at_most) and (self.at_least is None or self.value >= self.at_least)

    def facts(self) -> dict[str, Any]:
        """Return the bar for the JSON document."""
        limits = {name: limit for name, limit in (("at_most", self.at_most), ("at_least", self.at_least)) if limit is not None}
        return {"name": self.name, "value": round(self.value, 3), **limits, "met": self.met}


def report(claim: str, bars: Sequence[Bar], result: dict[str, Any]) -> None:
    """Print the result as JSON and leave with 1 where a bar of the claim was missed."""
    met = all(bar.met for bar in bars)
    document = {"claim": claim, "ratio": round(bars[0].value, 3), "met": met, "bars": [bar.facts() for bar in bars], **result}
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    sys.stdout.flush()
    sys.exit(0 if met or os.environ.get("TEMPER_BENCH_LENIENT") else 1)
