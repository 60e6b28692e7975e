"""Jobs in processes on this machine, each of which can die without taking another one along.

A pool of the standard library is lost as a whole with one of its processes, and nobody can tell which job did it. Here every worker
has pipes of its own. Workers are started afresh, not forked, so that no thread or device context of the parent is copied.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from temper.errors import InputError, RunError
from temper.jobs.attempts import Attempt, Attempts
from temper.jobs.job import Job, Keep, Terms
from temper.jobs.store import last_lines
from temper.jobs.worker import THREAD_NAMES

__all__ = ["run_in_processes", "visible_devices"]

# modules are found where the parent finds them, whatever put them there
_START: Final = "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); from temper.jobs.worker import main; main()"
_POLL_S: Final = 0.2  # a process that died while its children hold its pipes is seen this late
_GRACE_S: Final = 5.0  # for a job to clean up after Ctrl-C


def visible_devices() -> list[str]:
    """Return the GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        names = [name.strip() for name in named.split(",")]
        return names[: next((at for at, name in enumerate(names) if name in ("", "-1")), len(names))]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]  # asks the driver's library, makes no context


class _Worker:
    """A process that works on one job at a time."""

    def __init__(self, terms: Terms, devices: Sequence[str], stderr: Path) -> None:
        environment = {**os.environ, **dict.fromkeys(THREAD_NAMES, str(terms.threads))}
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        self.devices = devices
        self.attempt: Attempt | None = None
        self.ready = False
        self.stderr = stderr
        with stderr.open("wb") as handle:
            # a session of its own: Ctrl-C reaches the parent only, which ends the worker and whatever that started
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=handle,
                env=environment,
                start_new_session=True,
            )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._requests, self.answers = self.process.stdin, self.process.stdout
        os.set_blocking(self.answers.fileno(), False)
        self._read = b""

    def send(self, request: Any) -> None:
        """Send a job, or None for farewell; a worker that is dead is noticed when its answers are read."""
        with contextlib.suppress(BrokenPipeError):
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()

    def begin(self, attempt: Attempt, terms: Terms) -> None:
        """Give the worker something to do."""
        self.attempt, job = attempt, attempt.job
        log = str(terms.log_of(job))
        self.send({"key": job.key, "function": job.function, "arguments": job.arguments, "log": log, "attempt": attempt.number})

    def heard(self) -> tuple[list[Any], bool]:
        """Return what the worker said since the last call, and whether it has ended."""
        gone = self.process.poll() is not None  # asked first: what it said before is read below
        while True:
            try:
                piece = os.read(self.answers.fileno(), 1 << 20)
            except BlockingIOError:
                break
            if not piece:
                gone = True
                break
            self._read += piece
        *lines, self._read = self._read.split(b"\n")
        return [json.loads(line) for line in lines], gone

    def kill(self) -> None:
        """End the worker and all it started, and take the pipes down."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        self.answers.close()

    def how_it_ended(self) -> str:
        """Say how a dead worker ended."""
        code = self.process.returncode
        if code >= 0:
            return f"ended with exit code {code} and no result"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"was killed by {name}" + (" (out of memory, or from outside)" if -code == signal.SIGKILL else "")


def _dismiss(workers: Sequence[_Worker]) -> None:
    """Say farewell to idle workers, interrupt busy ones, and kill what is left after a while."""
    try:
        for worker in workers:
            if worker.attempt is None:
                worker.send(None)
            else:
                with contextlib.suppress(ProcessLookupError):
                    worker.process.send_signal(signal.SIGINT)
        end = time.monotonic() + _GRACE_S
        for worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, end - time.monotonic()))
    finally:
        for worker in workers:
            worker.kill()


def _device_groups(terms: Terms, wanted: int) -> list[list[str]]:
    """Return the devices of each worker; empty lists where they are not shared out."""
    if not terms.gpus:
        return [[] for _ in range(wanted)]
    devices = visible_devices()
    if len(devices) < terms.gpus:
        raise InputError(
            f"jobs: gpus_per_job = {terms.gpus}, but {len(devices)} devices are visible here. "
            "Lower it, or look at CUDA_VISIBLE_DEVICES."
        )
    groups = [devices[at : at + terms.gpus] for at in range(0, len(devices) - terms.gpus + 1, terms.gpus)]
    return groups[:wanted]


def run_in_processes(jobs: Sequence[Job], terms: Terms, keep: Keep) -> None:
    """Run jobs in worker processes and hand over what comes of each.

    Raises:
        RunError: A worker process cannot even start.
        InputError: There are fewer devices than a job asks for.
    """
    line = Attempts(jobs, terms, keep)
    free = _device_groups(terms, min(terms.workers, len(jobs)))
    workers: list[_Worker] = []
    with tempfile.TemporaryDirectory(prefix="temper-jobs-") as scratch, selectors.DefaultSelector() as selector:
        try:
            while not line.finished:
                for worker in workers:
                    if worker.attempt is None and (attempt := line.take()):
                        worker.begin(attempt, terms)
                while free and (attempt := line.take()):
                    worker = _Worker(terms, free.pop(0), Path(scratch) / f"{time.monotonic_ns()}.stderr")
                    workers.append(worker)
                    selector.register(worker.answers, selectors.EVENT_READ)
                    worker.begin(attempt, terms)
                selector.select(timeout=_POLL_S)
                for worker in list(workers):
                    said, gone = worker.heard()
                    for answer in said:
                        _take(answer, worker, line, terms)
                    if gone:
                        workers.remove(worker)
                        selector.unregister(worker.answers)
                        worker.kill()
                        free.append(list(worker.devices))
                        _bury(worker, line)
        finally:
            _dismiss(workers)


def _take(answer: dict[str, Any], worker: _Worker, line: Attempts, terms: Terms) -> None:
    attempt = worker.attempt
    if "ready" in answer:
        worker.ready = True
    elif attempt is not None and "progress" in answer:
        stage, done, total, note = answer["progress"]
        terms.tell(f"{attempt.job.key} {stage}".strip(), done, total, note)
    elif attempt is not None:
        worker.attempt = None
        line.ended(attempt, answer["ok"], answer["value"])


def _bury(worker: _Worker, line: Attempts) -> None:
    how = worker.how_it_ended()
    if not worker.ready and worker.process.returncode > 0:
        lines = "\n".join(f"    {text}" for text in last_lines(worker.stderr))
        raise RunError(f"jobs: a worker process {how} before it could begin. It said:\n{lines}")
    if worker.attempt is not None:
        line.died(worker.attempt, how)
