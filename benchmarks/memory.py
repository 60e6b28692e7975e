"""Peak memory of each way, measured in a fresh process that does nothing else.

A script that compares ways calls `run(WAYS, main)`. Started as usual it runs `main` in an empty folder; started with
`--way NAME FOLDER`, as `peaks` does, it builds that way from what `main` left in the folder, takes a few steps and prints its
peak. A way named `imports` that only imports shows what Python, torch and transformers take; what a way takes beyond that is
its own.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

__all__ = ["MIB", "beyond_imports", "peak_bytes", "peaks", "run", "share"]

MIB = 2**20
_IMPORTS, _STEPS = "imports", 3

_GIVE_BACK: Final = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Makes glibc give freed tensors back at once, so that a peak is that of live tensors, as `max_memory_allocated` is on a GPU. Without
it every way holds a few hundred MiB that it has freed."""

Ways = Mapping[str, Callable[[Path], Callable[[], Any]]]
"""Name to what builds the way from the folder and returns one step of it."""


def peak_bytes() -> int:
    """Return the largest resident size that this process has had."""
    status = Path("/proc/self/status")
    if status.is_file():
        # on Linux ru_maxrss of a new process begins at the size of the one that started it
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def peaks(script: str, ways: Iterable[str], folder: Path) -> dict[str, int]:
    """Return the peak bytes of each way and of a process that only imports."""
    found = {}
    for way in (_IMPORTS, *ways):
        command = [sys.executable, script, "--way", way, str(folder)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | _GIVE_BACK)
        found[way] = int(done.stdout.split()[-1])
    return found


def beyond_imports(found: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Return each way's peak in MiB, whole and beyond that of imports."""
    return {
        way: {"peak_mib": round(peak / MIB, 1), "beyond_imports_mib": round((peak - found[_IMPORTS]) / MIB, 1)}
        for way, peak in found.items()
    }


def share(found: Mapping[str, int], way: str, of: str) -> float:
    """Return the memory of a way beyond imports over that of another."""
    return (found[way] - found[_IMPORTS]) / (found[of] - found[_IMPORTS])


def run(ways: Ways, main: Callable[[Path], None]) -> None:
    """Run a way and print its peak bytes where the command asks for it, else `main` in an empty folder."""
    if sys.argv[1:2] == ["--way"]:
        way, folder = sys.argv[2:4]
        if way != _IMPORTS:
            step = ways[way](Path(folder))
            for _ in range(_STEPS):
                step()
        sys.stdout.write(f"{peak_bytes()}\n")
        return
    with tempfile.TemporaryDirectory() as empty:
        main(Path(empty))
