"""Building a world once and finding its parts again.

A built world is one folder of the cache, named by everything that determines it:

    worlds/KEY/world.json      numbers, entities, background tables, sentence templates
    worlds/KEY/data/*.jsonl    see :mod:`temper.world.datafiles`
    worlds/KEY/original/       the model that knows everyone but the holdout people
    worlds/KEY/gold/           the model that never saw the people to be forgotten

Each of the last three is a stage that appears whole or not at all, so a build that was killed goes on where it stopped.
One process at a time works on an entry; others wait for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO

import temper
from temper.errors import DataError, InputError, RunError, nearest
from temper.files import cache_folder, folder_aside, hash_json, read_json, write_json
from temper.world.datafiles import DATA_FILES, write_data
from temper.world.modelling import MODELS
from temper.world.people import World
from temper.world.spec import WorldSpec

__all__ = ["Progress", "build", "entry", "locate", "names", "read_world"]

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total); calls come from the thread that builds."""

_PREFIX = "world:"


def entry(spec: WorldSpec) -> Path:
    """Return the cache folder of a world, built or not.

    The key holds the content hash and the version of torch: another torch may round otherwise and train other weights.
    """
    key = hash_json({"content": spec.content_hash, "torch": version("torch")})
    return cache_folder() / "worlds" / key[:20]


def names() -> list[str]:
    """Return every name that :func:`locate` knows: the models, then the data files."""
    return [_PREFIX + name for name in (*MODELS, *DATA_FILES)]


def locate(name: str, spec: WorldSpec) -> Path:
    """Return the path of a part of a world, building what is missing of it and nothing else.

    Args:
        name: ``"world:original"``, ``"world:gold"``, or ``"world:"`` and the name of a data file.
        spec: Which world.

    Raises:
        InputError: No such name.
    """
    if name not in names():
        raise InputError(f"{name!r} is not part of a world{nearest(name, names())}. Choose one of: {', '.join(names())}.")
    part = name.removeprefix(_PREFIX)
    if part in MODELS:
        return _complete(spec, [part], None, 1) / part
    return _complete(spec, [], None, 1) / "data" / f"{part}.jsonl"


def read_world(folder: Path) -> World:
    """Return the world of a built folder, made again from the numbers in its ``world.json``.

    Raises:
        DataError: No world there, or one that another version of this library wrote.
    """
    file = folder / "world.json"
    recorded = read_json(file)
    try:
        world = World(WorldSpec(**recorded["spec"]))
        told = recorded["content_hash"]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{file}: not the description of a world ({error}). Give a folder that `temper world build` wrote."
        ) from error
    if told != world.spec.content_hash:
        raise DataError(f"{file}: written by another version of the world ({recorded.get('version')}). Build it again.")
    return world


def build(
    spec: WorldSpec,
    out: Path | None = None,
    *,
    gold: bool = True,
    progress: Progress | None = None,
    workers: int = 2,
) -> Path:
    """Build a world, or find it built, and return its folder.

    Args:
        spec: Which world.
        out: Where to put a copy; without it the folder in the cache is returned.
        gold: Whether the gold model is wanted too.
        progress: Told of the steps of each stage.
        workers: 1 or 2 models trained at the same time, one core each. The result is the same bit for bit.

    Raises:
        InputError: ``workers`` below 1, or ``out`` is a file or holds something other than a world.
        RunError: A model's training failed.
    """
    if workers < 1:
        raise InputError(f"workers = {workers}, but at least one process has to train. Give 1 or 2.")
    if out is not None and out.exists() and not (out / "world.json").is_file() and (out.is_file() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not a world. Give a new folder, an empty one, or a world to replace.")
    wanted = ["original", "gold"] if gold else ["original"]
    built = _complete(spec, wanted, progress, workers)
    if out is None:
        return built
    with folder_aside(out) as aside:
        for part in ("world.json", "data", *wanted):
            source = built / part
            if source.is_dir():
                shutil.copytree(source, aside / part)
            else:
                shutil.copy2(source, aside / part)
    return out


def _complete(spec: WorldSpec, models: Sequence[str], progress: Progress | None, workers: int) -> Path:
    folder = entry(spec)
    if _missing(folder, models) == (False, []):
        return folder
    with _alone(folder):
        data, lacking = _missing(folder, models)  # another process may have built it while this one waited
        if data:
            world = World(spec)
            with folder_aside(folder / "data") as aside:
                write_data(world, aside)
            write_json(folder / "world.json", world.to_json())
            if progress is not None:
                progress("data", 1, 1)
        for start in range(0, len(lacking), workers):
            _train(folder, lacking[start : start + workers], progress)
    return folder


def _missing(folder: Path, models: Sequence[str]) -> tuple[bool, list[str]]:
    """Return whether the data are missing, and which of the models are. The world file is written after the data."""
    return not (folder / "world.json").is_file(), [m for m in models if not (folder / m).is_dir()]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a cache entry; the system frees it when the process ends, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process builds %s; waiting for it", folder)
            fcntl.flock(handle, fcntl.LOCK_EX)
        for leftover in folder.glob(".*.*"):  # of a killed build: nobody else is in here
            if leftover.is_dir():
                shutil.rmtree(leftover)
        yield


def _train(folder: Path, models: Sequence[str], progress: Progress | None) -> None:
    """Train the models side by side, each in a process of its own, and pass on their progress."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
    source = str(Path(temper.__file__).parents[1])  # the child has to find the very package that started it
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
    reports: queue.Queue[tuple[str, int, int] | None] = queue.Queue()
    children: dict[str, subprocess.Popen[str]] = {}
    errors: dict[str, list[str]] = {}
    readers: list[threading.Thread] = []
    try:
        for name in models:
            command = [sys.executable, "-m", "temper.world.modelling", str(folder / "world.json"), name, str(folder / name)]
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
            )
            children[name], errors[name] = child, []
            assert child.stdout is not None and child.stderr is not None
            readers.append(threading.Thread(target=_read_reports, args=(child.stdout, reports), daemon=True))
            readers.append(threading.Thread(target=errors[name].extend, args=(child.stderr,), daemon=True))
        for reader in readers:
            reader.start()
        for _ in models:  # each child's reader ends with a None
            while (report := reports.get()) is not None:
                if progress is not None:
                    progress(*report)
        for name, child in children.items():
            if child.wait() != 0:
                raise RunError(
                    f"training the {name} model of the world failed (exit code {child.returncode}). What it said last:\n"
                    + "".join(errors[name][-12:])
                )
    finally:
        for child in children.values():
            if child.poll() is None:
                child.terminate()
                child.wait()
        for reader in readers:
            reader.join()
        for child in children.values():
            for stream in (child.stdout, child.stderr):
                if stream is not None:
                    stream.close()


def _read_reports(stream: IO[str], reports: queue.Queue[tuple[str, int, int] | None]) -> None:
    try:
        for line in stream:
            name, done, total = json.loads(line)
            reports.put((str(name), int(done), int(total)))
    finally:
        reports.put(None)
