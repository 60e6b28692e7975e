"""Claim: `import temper` takes under 0.5 s and `temper --help` under 1.5 s (wall, the least of five)."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from timing import report


def least(command: list[str]) -> float:
    """Return the least wall seconds of five runs."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Measure and print."""
    bare = least([sys.executable, "-c", "pass"])
    imported = least([sys.executable, "-c", "import temper"])
    shown = least([str(Path(sys.executable).with_name("temper")), "--help"])
    result = {
        "seconds": {"python": round(bare, 3), "import temper": round(imported, 3), "temper --help": round(shown, 3)},
        "floor": "python itself",
    }
    report("start-up, the larger share of the two limits", result, 1.0, max(imported / 0.5, shown / 1.5), at_least=False)


if __name__ == "__main__":
    main()
