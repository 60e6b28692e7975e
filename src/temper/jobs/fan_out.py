"""The one call that runs jobs, whatever the back end."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from temper import processes
from temper.errors import InputError, RunError, RunLocked
from temper.files import write_text
from temper.jobs.job import Job, Keep, Terms
from temper.jobs.store import Claims, last_lines, store_result, stored_result
from temper.jobs.worker import perform, threads_limited

if TYPE_CHECKING:
    from temper.run import Progress

__all__ = ["JobsFailed", "run_jobs"]

Backend = Literal["serial", "processes", "ray"]


class JobsFailed(RunError):
    """One or more jobs failed; the message names each with its reason and the end of its log.

    Attributes:
        failures: Why, by key.
        results: What the other jobs returned, by key.
    """

    def __init__(self, message: str, failures: Mapping[str, str], results: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.failures = dict(failures)
        self.results = dict(results)


def _run_here(jobs: Sequence[Job], terms: Terms, keep: Keep) -> None:
    """Run jobs one after another in this process. What they print goes to standard error: the other stream is the caller's."""
    with threads_limited(terms.threads), contextlib.redirect_stdout(sys.stderr):
        for job in jobs:
            if not terms.claim(job):
                continue
            outcome = perform(job, lambda stage, *rest, key=job.key: terms.tell(f"{key} {stage}", *rest))
            if outcome.trace:
                write_text(terms.log_of(job), outcome.trace)
            else:
                terms.log_of(job).unlink(missing_ok=True)
            keep(job, outcome.ok, outcome.value)


def _check(jobs: Sequence[Job], backend: str, **numbers: int) -> None:
    keys = [job.key for job in jobs]
    if len(set(keys)) != len(keys):
        raise InputError(f"job keys must differ; seen twice: {', '.join(sorted({key for key in keys if keys.count(key) > 1}))}")
    if backend not in get_args(Backend):
        raise InputError(f"jobs: backend {backend!r}; backend is serial, processes or ray")
    lowest = {"gpus_per_job": 0, "retries": 0}
    for name, value in numbers.items():
        if value < lowest.get(name, 1):
            raise InputError(f"jobs: {name} = {value}; it is at least {lowest.get(name, 1)}")
    if backend == "serial":
        if numbers["gpus_per_job"]:
            raise InputError("jobs: gpus_per_job needs processes of its own. Take backend processes or ray.")
        return
    if processes.count() > 1:
        raise InputError(
            f"jobs: backend {backend} is for one parent, and torchrun started {processes.count()}. Start without it."
        )
    for job in jobs:
        if job.function.startswith("__main__:"):
            raise InputError(f"job {job.key}: no worker can import {job.function!r}. Put the function in a module.")


def run_jobs(
    jobs: Sequence[Job],
    *,
    backend: Backend = "serial",
    workers: int = 2,
    folder: Path | None = None,
    progress: Progress | None = None,
    threads: int = 1,
    gpus_per_job: int = 0,
    retries: int = 2,
    address: str | None = None,
) -> dict[str, Any]:
    """Run jobs and return their results by key, in the order given.

    Every job runs even if another fails; results that were reached are kept, so that a second call repeats the failed ones only.
    Two calls may share a folder; each job is run by one of them.
    The results do not depend on the back end, the number of workers or the order. A job whose process dies is begun again after the
    others, the last time alone.

    Args:
        jobs: What to run; keys must differ.
        backend: `serial` in this process, `processes` in processes beside it, `ray` as tasks of Ray (extra `ray`).
        workers: Jobs at the same time; with `gpus_per_job` no more than there are devices for.
        folder: Where results are stored, ``KEY.json``, and what jobs print, ``KEY.log``; without it nothing is kept.
        progress: Called at the start and after each job with the stage `jobs`; with ``KEY STAGE`` for what a job tells of itself
            (not from Ray); with ``KEY attempt`` when one is begun again.
        threads: Threads that a job computes with; more of them change the last digits of sums.
        gpus_per_job: Devices of its own for each job. 0: processes see what this one sees, Ray decides for its tasks.
        retries: How often a job is begun again whose process died (killed, out of memory, crashed).
        address: A Ray cluster; else RAY_ADDRESS, else one is started on this machine and ended afterwards. Ray that this process
            uses already is taken as it is.

    Raises:
        JobsFailed: One or more jobs failed; a `RunError`.
        RunLocked: Some jobs are being run by another call with the same folder; the others were run.
        InputError: Keys, back end or numbers are wrong; a stored result belongs to another job.
        MissingExtraError: Ray is asked for and not installed.
    """
    _check(jobs, backend, workers=workers, threads=threads, gpus_per_job=gpus_per_job, retries=retries)
    results: dict[str, Any] = {}
    failures: dict[str, str] = {}
    claims = Claims(folder) if folder is not None else None
    elsewhere: list[Job] = []

    def tell(stage: str, done: int, total: int, note: str = "") -> None:
        if progress is not None:
            progress(stage, done, total, note)

    def is_there(job: Job) -> bool:
        done, result = stored_result(job, folder) if folder is not None else (False, None)
        if done:
            results[job.key] = result
        return done

    def claim(job: Job) -> bool:
        if claims is None:
            return True
        if not claims.take(job):
            elsewhere.append(job)
            return False
        if is_there(job):  # another call finished it since this one began
            claims.release(job)
            tell("jobs", len(results) + len(failures), len(jobs), job.key)
            return False
        return True

    def keep(job: Job, ok: bool, value: Any) -> None:
        if ok:
            if folder is not None:
                store_result(job, value, folder)
            results[job.key] = value
        else:
            log = terms.log_of(job)
            lines = [line for line in last_lines(log) if not line.endswith(value)]
            where = f"\n      log: {log}" if folder is not None and lines else ""
            failures[job.key] = value
            said[job.key] = where + "".join(f"\n      | {line}" for line in lines)
        if claims is not None:
            claims.release(job)
        tell("jobs", len(results) + len(failures), len(jobs), job.key)

    said: dict[str, str] = {}
    waiting = [job for job in jobs if not is_there(job)]
    tell("jobs", len(results), len(jobs), "")
    if waiting:
        with contextlib.ExitStack() as stack:
            if claims is not None:
                stack.callback(claims.close)
            logs = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="temper-jobs-")))
            terms = Terms(workers, threads, gpus_per_job, retries + 1, logs, tell, claim, address)
            _back_end(backend)(waiting, terms, keep)
    busy = [job.key for job in elsewhere if not is_there(job)]
    if failures:
        ordered = {job.key: failures[job.key] for job in jobs if job.key in failures}
        message = f"{len(ordered)} of {len(jobs)} jobs failed:\n"
        message += "\n".join(f"  - {key}: {text}{said[key]}" for key, text in ordered.items())
        raise JobsFailed(message, ordered, {job.key: results[job.key] for job in jobs if job.key in results})
    if busy and claims is not None:
        raise RunLocked(
            f"{folder}: {len(busy)} of {len(jobs)} jobs are being run by another call (pid {claims.owners[busy[0]]}): "
            f"{', '.join(busy[:3])}{' ...' if len(busy) > 3 else ''}. The others are done. Wait for it and call again."
        )
    return {job.key: results[job.key] for job in jobs}


def _back_end(name: Backend) -> Callable[[Sequence[Job], Terms, Keep], None]:
    if name == "serial":
        return _run_here
    if name == "processes":
        from temper.jobs.processes import run_in_processes

        return run_in_processes
    from temper.jobs.cluster import run_on_ray

    return run_on_ray
