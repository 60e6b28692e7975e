"""TIES of four models of a hundred million parameters, from disk to disk.

- At least twice as fast as mergekit on the same files in the same run, whole commands less what importing takes; mergekit is found as
  `mergekit-yaml` beside this Python, on the path, or as $MERGEKIT. Where it is missing that bar is skipped.
- Memory beyond imports: at most (n + 2) times the largest tensor in float32 and 300 MB.

The floor is to read base and models and to write the result: the same bytes, copied. The record (hashes of all files, norms, cosines,
conflicts) is part of what is timed; mergekit writes none.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from memory import MIB, beyond_imports, peaks, run
from safetensors.torch import load_file, save_file
from timing import Bar, cpu_seconds, report

from models import random_llama
from temper.merge import Ties
from temper.merge.folder import write_merge
from temper.merge.opening import open_deltas

MODELS, DENSITY, REPEATS = 4, 0.2, 2
OURS: Final = "temper, disk to disk"
_CONFIG: Final = """\
merge_method: ties
base_model: {base}
models:
{models}
parameters: {{normalize: true}}
dtype: float32
"""


def folders(folder: Path) -> tuple[Path, list[Path]]:
    """Return where the base and the models lie."""
    return folder / "base", [folder / f"split{number}" for number in range(MODELS)]


def make(folder: Path) -> dict[str, int]:
    """Write a base and models that are it with noise, float32; returns sizes."""
    base, splits = folders(folder)
    model = random_llama(layers=8, width=768, vocabulary=32000, context=128)
    model.save_pretrained(base)
    del model
    stored = load_file(base / "model.safetensors")
    for number, split in enumerate(splits):
        draw = torch.Generator().manual_seed(number)
        shutil.copytree(base, split)
        noisy = {name: value + 2e-4 * torch.randn(value.shape, generator=draw) for name, value in stored.items()}
        save_file(noisy, split / "model.safetensors", {"format": "pt"})
    largest = max(value.numel() for value in stored.values())
    return {"parameters": sum(value.numel() for value in stored.values()), "largest": largest}


def merging(folder: Path) -> Callable[[], Any]:
    """Return one merge by this library."""
    base, splits = folders(folder)
    return lambda: write_merge(open_deltas(base, splits), Ties(density=DENSITY), folder / "ours")


def copying(folder: Path) -> Callable[[], None]:
    """Return the floor: read all, write one."""
    base, splits = folders(folder)

    def copy() -> None:
        for split in splits:
            with (split / "model.safetensors").open("rb") as handle:
                while handle.read(1 << 20):
                    pass
        shutil.copyfile(base / "model.safetensors", folder / "copy")
        with (folder / "copy").open("rb") as handle:
            os.fsync(handle.fileno())

    return copy


def command_seconds(command: list[str]) -> dict[str, float]:
    """Return CPU and wall seconds of a command on one thread."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    return {"cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, "wall": wall}


def least(command: list[str], clean: Path | None = None) -> dict[str, float]:
    """Return the least seconds of some repeats."""
    found = []
    for _ in range(REPEATS):
        if clean is not None:
            shutil.rmtree(clean, ignore_errors=True)
        found.append(command_seconds(command))
    return {kind: min(one[kind] for one in found) for kind in ("cpu", "wall")}


def least_here(step: Callable[[], Any]) -> dict[str, float]:
    """Return the least seconds of some repeats in this process, which has imported all it needs."""
    found = []
    for _ in range(REPEATS):
        with cpu_seconds() as spent:
            step()
        found.append(spent)
    return {kind: min(one[kind] for one in found) for kind in ("cpu", "wall")}


def mergekit_command() -> Path | None:
    """Return the command of mergekit, where there is one."""
    beside = Path(sys.executable).with_name("mergekit-yaml")
    found = os.environ.get("MERGEKIT") or (str(beside) if beside.is_file() else shutil.which("mergekit-yaml"))
    return Path(found) if found else None


def by_mergekit(folder: Path, command: Path) -> dict[str, dict[str, float]]:
    """Return the seconds of mergekit, and of importing what it needs."""
    base, splits = folders(folder)
    lines = "\n".join(f"  - model: {split}\n    parameters: {{weight: 1.0, density: {DENSITY}}}" for split in splits)
    config = folder / "ties.yaml"
    config.write_text(_CONFIG.format(base=base, models=lines), encoding="utf-8")
    imports = least([str(command.with_name("python")), "-c", "import mergekit.merge"])
    whole = least([str(command), str(config), str(folder / "theirs"), "--no-cuda"], folder / "theirs")
    return {"imports": imports, "whole": whole}


def furthest(folder: Path) -> dict[str, float]:
    """Return how far the two results are apart: of entries of equal size at the cut, each keeps others."""
    base, _ = folders(folder)
    ours, theirs, start = ({name: value for file in path.glob("*.safetensors") for name, value in load_file(file).items()}
                           for path in (folder / "ours", folder / "theirs", base))  # fmt: skip
    return {
        "apart": max(float((ours[name] - theirs[name]).abs().max()) for name in ours),
        "entries_apart_by_1e-6": sum(int(((ours[name] - theirs[name]).abs() > 1e-6).sum()) for name in ours),
        "change": max(float((ours[name] - start[name]).abs().max()) for name in ours),
    }


def main(folder: Path) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    sizes = make(folder)
    script = "import sys; from bench_merge import merging; from pathlib import Path; {}"
    ours = [sys.executable, "-c", script.format("merging(Path(sys.argv[1]))()"), str(folder)]
    nothing = [sys.executable, "-c", script.format("import transformers"), str(folder)]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    seconds = {"copy": least_here(copying(folder))}
    seconds["imports"] = least(nothing)
    seconds["temper"] = least(ours)
    command, theirs = mergekit_command(), None
    more: dict[str, Any] = {}
    own = {kind: seconds["temper"][kind] - seconds["imports"][kind] for kind in ("cpu", "wall")}
    bars = []
    if command is not None:
        theirs = by_mergekit(folder, command)
        seconds |= {"mergekit": theirs["whole"], "mergekit imports": theirs["imports"]}
        their_own = {kind: theirs["whole"][kind] - theirs["imports"][kind] for kind in ("cpu", "wall")}
        bars.append(Bar("CPU time of mergekit / temper, without imports", their_own["cpu"] / own["cpu"], at_least=2.0))
        bars.append(
            Bar("CPU time of mergekit / temper, whole commands", theirs["whole"]["cpu"] / seconds["temper"]["cpu"], at_least=2.0)
        )
        more["results"] = furthest(folder)
    else:
        more["skipped"] = "mergekit is not installed: name its mergekit-yaml in $MERGEKIT to compare with it"
    found = peaks(__file__, WAYS, folder)
    beyond = found[OURS] - found["imports"]
    allowed = (MODELS + 2) * 4 * sizes["largest"] + 300 * 10**6
    bars.append(Bar("peak memory beyond imports / ((n + 2) largest tensors + 300 MB)", beyond / allowed, at_most=1.0))
    report(
        "TIES of four models, disk to disk",
        bars,
        {
            **sizes,
            "seconds": {name: {kind: round(value, 2) for kind, value in one.items()} for name, one in seconds.items()},
            "temper_over_floor_cpu": round(own["cpu"] / seconds["copy"]["cpu"], 1),
            "memory": beyond_imports(found),
            "allowed_mib": round(allowed / MIB, 1),
            "largest_tensor_mib": round(4 * sizes["largest"] / MIB, 1),
            **more,
        },
    )


WAYS: Final[dict[str, Callable[[Path], Callable[[], Any]]]] = {OURS: merging}

if __name__ == "__main__":
    run(WAYS, main)
