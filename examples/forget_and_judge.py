"""Unlearn on the embedded world and read the evidence: the README's lines as a script.

Takes about five minutes from an empty cache (the world is built first), seconds afterwards. Pass `small` for the small world.
"""

from __future__ import annotations

import sys
from pathlib import Path

from temper import assess, recipe, report, unlearn


def main(size: str = "default", out: str = "runs/example") -> None:
    """Run it."""
    wanted = recipe.load("tiny/npo.yaml", [f"world.size={size}"])
    folder = unlearn.run(wanted, Path(out))
    evidence = assess.run(folder)
    answers = evidence.find("answer_accuracy", "forget")
    traces = evidence.find("trace_leak.statement", "trace")
    for name, result in (("forget answers right", answers), ("traces that state the fact", traces)):
        if result is None or result.value is None:
            print(f"{name}: cannot tell")
        else:
            print(f"{name}: {result.value:.2f} ({result.low:.2f} to {result.high:.2f}, n = {result.n})")
    print(report.run(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
