"""Claim: `import temper` takes under 1 s, `temper --help` under 1.5 s, and the first training step comes within 15 s of the start.

The first two are wall seconds, the least of five. The third runs `temper unlearn` with one step on the embedded world in a fresh process, the
least of two: from the start of the process to the line of the step in its log. The world is built before that, if it is not cached. Floor:
Python itself, and for the step a process that imports torch and transformers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from memory import MIB
from timing import Bar, report

TEMPER = str(Path(sys.executable).with_name("temper"))
Spent = dict[str, float]


def timed(command: list[str]) -> Spent:
    """Run a command and return its wall seconds, CPU seconds and peak memory."""
    start = time.time()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    peak = used.ru_maxrss if sys.platform == "darwin" else 1024 * used.ru_maxrss
    return {"wall": time.time() - start, "cpu": used.ru_utime + used.ru_stime, "peak_mib": peak / MIB}


def least(run: Callable[[], Spent], repeats: int) -> Spent:
    """Return the run with the least wall seconds."""
    return min((run() for _ in range(repeats)), key=lambda spent: spent["wall"])


def first_step() -> Spent:
    """Unlearn for one step and return what it took; `wall` ends at the step."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        start = time.time()
        # without an evaluation: what is timed ends at the step
        options = ["train.steps=1", "train.log_every=1", "evaluate=null", "--out", str(out)]
        spent = timed([TEMPER, "unlearn", "tiny/npo.yaml", *options])
        log = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        step = next(line for line in log if line["event"] == "train")
        return {**spent, "wall": step["time"] - start}


def main() -> None:
    """Measure and print."""
    # nothing large is imported here: on Linux a child's peak begins at that of its parent
    runs = {
        "python": least(lambda: timed([sys.executable, "-c", "pass"]), 5),
        "import temper": least(lambda: timed([sys.executable, "-c", "import temper"]), 5),
        "temper --help": least(lambda: timed([TEMPER, "--help"]), 5),
        "import torch, transformers": least(
            lambda: timed([sys.executable, "-c", "import torch; from transformers import Trainer, AutoModelForCausalLM"]), 2
        ),
    }
    first_step()  # builds the world where it is not cached
    runs["first training step"] = least(first_step, 2)
    report(
        "start-up",
        [
            Bar("seconds, import temper", runs["import temper"]["wall"], at_most=1.0),
            Bar("seconds, temper --help", runs["temper --help"]["wall"], at_most=1.5),
            Bar("seconds, start to first training step", runs["first training step"]["wall"], at_most=15.0),
        ],
        {
            "spent": {name: {key: round(value, 3) for key, value in spent.items()} for name, spent in runs.items()},
            "floor": {
                "python": round(runs["python"]["wall"], 3),
                "first_step_over_imports": round(
                    runs["first training step"]["wall"] / runs["import torch, transformers"]["wall"], 2
                ),
            },
        },
    )


if __name__ == "__main__":
    main()
