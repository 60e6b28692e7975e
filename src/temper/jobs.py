"""Jobs: runs that are one of several (a split, a shard, a seed, a sweep point), fanned out and resumable.

A job is a function named by text and JSON arguments, so that the same description runs in this process, in a pool of
processes here, or on a cluster. Its key names its result; a finished job with the same arguments is not run again.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from temper.errors import InputError, RunError, TemperError
from temper.files import hash_json, read_json, write_json
from temper.run import Progress

__all__ = ["Job", "run_jobs"]


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        key: Names the job and its result file; letters, digits, dot, dash, underscore.
        function: ``"package.module:function"``; called with the arguments as keywords, returns JSON.
        arguments: JSON values.
    """

    key: str
    function: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.key):
            raise InputError(f"job key {self.key!r}: use letters, digits, dot, dash and underscore only")

    @property
    def content_hash(self) -> str:
        """Return the hash of what the job does, for telling whether a stored result is its own."""
        return hash_json({"function": self.function, "arguments": self.arguments})


def _call(job: Job) -> Any:
    module, _, name = job.function.partition(":")
    result = getattr(importlib.import_module(module), name)(**job.arguments)
    # what a fresh run returns is what a resumed one will read
    return json.loads(json.dumps(result, allow_nan=False))


def _call_in_worker(job: Job) -> tuple[bool, Any]:
    """Run a job and bring its error back as text: exceptions with their own constructors do not cross processes."""
    try:
        return True, _call(job)
    except TemperError as error:
        return False, str(error)
    except Exception as error:  # noqa: BLE001 - one job's fault must not keep the others from running; it is reported with its key
        return False, f"{type(error).__name__}: {error}"


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Start worker processes with one thread each: spinning threads on shared cores are many times slower."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _stored(job: Job, folder: Path | None) -> tuple[bool, Any]:
    path = None if folder is None else folder / f"{job.key}.json"
    if path is None or not path.exists():
        return False, None
    entry = read_json(path)
    if not isinstance(entry, dict) or entry.get("job") != job.content_hash:
        raise InputError(
            f"{path}: holds the result of another job with this key. Give another key or folder, or remove the file."
        )
    return True, entry["result"]


def _run_in_pool(jobs: Sequence[Job], workers: int, keep: Callable[[Job, bool, Any], None]) -> list[Job]:
    """Run jobs in spawned processes; return those whose process died before they ended."""
    lost = []
    context = multiprocessing.get_context("spawn")
    with _one_thread_each(), ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        futures: dict[Future[tuple[bool, Any]], Job] = {pool.submit(_call_in_worker, job): job for job in jobs}
        for future in as_completed(futures):
            try:
                ok, value = future.result()
            except BrokenProcessPool:
                lost.append(futures[future])
            else:
                keep(futures[future], ok, value)
    return lost


def run_jobs(
    jobs: Sequence[Job],
    *,
    backend: Literal["serial", "processes"] = "serial",
    workers: int = 2,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run jobs and return their results by key, in the order given.

    Every job runs even if another fails; results that were reached are kept, so that a second call repeats the failed ones only.

    Args:
        jobs: What to run; keys must differ.
        backend: `serial` in this process, `processes` in a pool of spawned ones (same results).
        workers: Processes in the pool.
        folder: Where results are stored; without it nothing is kept.
        progress: Called at the start and after each job.

    Raises:
        RunError: One or more jobs failed; names each with its reason.
    """
    keys = [job.key for job in jobs]
    if len(set(keys)) != len(keys):
        raise InputError(f"job keys must differ; seen twice: {', '.join(sorted({key for key in keys if keys.count(key) > 1}))}")
    if backend not in ("serial", "processes") or workers < 1:
        raise InputError(
            f"jobs: backend {backend!r} with {workers} workers; backend is serial or processes, with at least 1 worker"
        )
    results: dict[str, Any] = {}
    failures: dict[str, str] = {}
    waiting = []
    for job in jobs:
        done, result = _stored(job, folder)
        if done:
            results[job.key] = result
        else:
            waiting.append(job)

    if progress is not None:
        progress("jobs", len(results), len(jobs), "")

    def keep(job: Job, ok: bool, value: Any) -> None:
        if ok:
            results[job.key] = value
            if folder is not None:
                write_json(folder / f"{job.key}.json", {"job": job.content_hash, "key": job.key, "result": value})
        else:
            failures[job.key] = value
        if progress is not None:
            progress("jobs", len(results) + len(failures), len(jobs), job.key)

    if backend == "serial" or len(waiting) <= 1:
        for job in waiting:
            keep(job, *_call_in_worker(job))
    else:
        # a worker that dies takes the whole pool with it: each job that was lost gets a pool of its own, to tell who did it
        for job in _run_in_pool(waiting, workers, keep):
            if _run_in_pool([job], 1, keep):
                keep(job, False, "its process ended without a word (killed, or out of memory)")
    if failures:
        raise RunError(
            f"{len(failures)} of {len(jobs)} jobs failed:\n" + "\n".join(f"  - {key}: {text}" for key, text in failures.items())
        )
    return {key: results[key] for key in keys}
