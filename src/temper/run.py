"""A run: one folder with the resolved recipe, the manifest, the log, the artefact and its evidence.

    runs/NAME/
      recipe.yaml      the recipe with every default filled in; enough to run again
      manifest.json    hashes of recipe, model and data; code version; seed; the state of every stage
      log.jsonl        one line an event
      model/ or adapter/   the artefact, safetensors
      evidence.json records.parquet report.html report.md report.json

A run that is started again with the same recipe goes on where it stopped: finished stages are skipped, training resumes
from its last whole checkpoint. Another recipe in the same folder is refused. Only one process works in a folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Protocol

from temper import __version__, processes
from temper.errors import DataError, InputError, RecipeError, RunLocked
from temper.files import append_line, read_json, write_json, write_text
from temper.recipe import Recipe, dump, load, recipe_hash

__all__ = ["Progress", "Run", "environment", "open_run"]


class Progress(Protocol):
    """Told how far a stage is."""

    def __call__(self, stage: str, done: int, total: int, note: str = "", /) -> None:
        """Take note that `done` of `total` of a stage is finished."""
        ...


MANIFEST_SCHEMA: Final = "temper/manifest/1"
_PACKAGES: Final = ("torch", "transformers", "accelerate", "peft", "datasets", "tokenizers", "numpy", "scipy")


def environment() -> dict[str, Any]:
    """Return what a result depends on beside its recipe: versions, machine, state of the source tree."""
    versions = {"temper": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "versions": versions,
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "git": _git_state(),
    }


def _git_state() -> dict[str, Any] | None:
    """Return commit and whether the source tree differs from it; None outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        changes = subprocess.run(
            ["git", "-C", here, "status", "--porcelain", "--", "."], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.stdout.strip(), "modified": bool(changes.stdout.strip())}


class Run:
    """An open run folder. Use `open_run`.

    Attributes:
        folder: The run folder.
        recipe: The resolved recipe.
    """

    def __init__(self, folder: Path, recipe: Recipe, manifest: dict[str, Any], progress: Progress | None) -> None:
        # of several processes the first one writes; the others keep the same notes in memory
        self._writes = processes.is_first()
        self.folder = folder
        self.recipe = recipe
        self._manifest = manifest
        self._progress = progress

    @property
    def manifest(self) -> dict[str, Any]:
        """Return a copy of the manifest."""
        return dict(json.loads(json.dumps(self._manifest)))

    @property
    def model_folder(self) -> Path:
        """Return where the artefact model is saved."""
        return self.folder / "model"

    def progress(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Tell whoever watches that `done` of `total` of a stage is finished."""
        if self._progress is not None and self._writes:
            self._progress(stage, done, total, note)

    def log(self, event: str, **facts: Any) -> None:
        """Append one event to log.jsonl."""
        if self._writes:
            append_line(self.folder / "log.jsonl", {"time": round(time.time(), 3), "event": event, **facts})

    def stage_done(self, name: str) -> bool:
        """Return whether a stage has finished in this or an earlier process."""
        return name in self._manifest["stages"]

    def stage(self, name: str) -> dict[str, Any]:
        """Return the facts a finished stage left."""
        return dict(self._manifest["stages"][name])

    def finish_stage(self, name: str, **facts: Any) -> None:
        """Note in the manifest that a stage has finished, with facts about it."""
        self._manifest["stages"][name] = {"finished": round(time.time(), 3), **facts}
        self._write()
        self.log("stage", name=name)

    def note_inputs(self, **hashes: Any) -> None:
        """Record hashes of model and data; refuse to go on with inputs that changed since the run began.

        Raises:
            DataError: An input has another content than when the run was started.
        """
        known = self._manifest["inputs"]
        for name, value in hashes.items():
            if name in known and known[name] != value:
                raise DataError(
                    f"{self.folder}: the {name} changed since this run was started (was {str(known[name])[:12]}, is {str(value)[:12]}). "
                    "Put the old content back to resume, or start a new run with another output folder."
                )
        if any(name not in known for name in hashes):
            known.update(hashes)
            self._write()

    def _write(self) -> None:
        if self._writes:
            write_json(self.folder / "manifest.json", self._manifest)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("a+")
    except OSError as error:
        raise InputError(f"{folder}: cannot be used as a run folder ({error.strerror}). Give another output folder.") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            owner = handle.read().strip() or "unknown"
            raise RunLocked(
                f"{folder}: another process (pid {owner}) works in this run folder. Wait for it, or give another output folder."
            ) from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield  # the kernel drops the lock with the file, also when the process is killed


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line for number, pair in enumerate(zip(old, new, strict=True)) for line in _differences(*pair, f"{path}.{number}")
        ]
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted({*old, *new})
            for line in _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if old == new else [f"{path}: {json.dumps(old)[:60]} there, {json.dumps(new)[:60]} here"]


def _manifest_of(folder: Path, recipe: Recipe) -> dict[str, Any] | None:
    """Return the manifest of the run that a folder holds, or None where a new one can begin.

    A run that failed before it read its inputs has done nothing: its recipe can be mended and the folder used again.
    """
    path = folder / "manifest.json"
    if not path.exists():
        return None
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("schema") != MANIFEST_SCHEMA:
        raise InputError(f"{path}: not a manifest of this version. Remove the folder, or give another output folder.")
    if not manifest["inputs"] and not manifest["stages"] and manifest["recipe_hash"] != recipe_hash(recipe):
        return None
    if (folder / "recipe.yaml").read_text(encoding="utf-8") == dump(recipe):
        return manifest  # also where it holds objects of the caller's own, whose names cannot be read back
    try:
        old = load(folder / "recipe.yaml")
    except RecipeError as error:
        version = manifest["environment"]["versions"]["temper"]
        raise InputError(
            f"{folder}: its recipe.yaml was written by temper {version} and cannot be read any more.\n{error}"
        ) from error
    # not the stored hash: a release that adds a default would make strangers of all earlier runs
    if recipe_hash(old) == recipe_hash(recipe):
        return manifest
    lines = _differences(old.model_dump(mode="json"), recipe.model_dump(mode="json"))
    lines = [line for line in lines if not line.startswith(("output:", "report."))]
    raise InputError(
        f"{folder} holds a run of another recipe. Give another output folder (--out DIR), or remove it. They differ in:\n"
        + "\n".join(f"  - {line}" for line in lines[:12])
    )


@contextlib.contextmanager
def open_run(recipe: Recipe, output: Path | None = None, *, progress: Progress | None = None) -> Iterator[Run]:
    """Open the run folder of a recipe, new or to be resumed, and hold its lock while the block lasts.

    Args:
        recipe: The recipe.
        output: The run folder; else `recipe.output`, else ``runs/NAME``.
        progress: Called as work proceeds.

    Raises:
        RunLocked: Another process works in the folder.
        InputError: The folder holds a run of another recipe, or is not a run folder.
    """
    folder = output or Path(recipe.output or f"runs/{recipe.name}")
    if not processes.is_first():
        processes.wait()  # until the first process has opened the folder; if it cannot, torchrun ends this one too
        manifest = read_json(folder / "manifest.json")
        yield Run(folder, recipe, manifest, None)
        return
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file. Give a folder as output.")
    if folder.is_dir() and not (folder / "manifest.json").exists():
        others = sorted(item.name for item in folder.iterdir() if item.name != "recipe.yaml" and item.name[:1] != ".")
        if others:
            raise InputError(
                f"{folder}: not empty and not a run folder (holds {', '.join(others[:3])}). Give another output folder."
            )
    with _locked(folder):
        manifest_path = folder / "manifest.json"
        manifest = _manifest_of(folder, recipe)
        if manifest is None:
            manifest = {
                "schema": MANIFEST_SCHEMA,
                "name": recipe.name,
                "recipe_hash": recipe_hash(recipe),
                "seed": recipe.seed,
                "started": round(time.time(), 3),
                "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
                "environment": environment(),
                "inputs": {},
                "stages": {},
            }
            write_text(folder / "recipe.yaml", dump(recipe))
            write_json(manifest_path, manifest)
        elif (folder / "recipe.yaml").read_text(encoding="utf-8") != dump(recipe):
            write_text(folder / "recipe.yaml", dump(recipe))  # another title or output: the same run
        processes.wait()
        yield Run(folder, recipe, manifest, progress)
