"""What happens where a job runs.

A worker process reads jobs as JSON lines from its standard input and answers on what was its standard output; while a job
runs, both its output streams go to the job's log. When the parent dies, the input ends and the worker dies with it.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import queue
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from temper.errors import TemperError
from temper.jobs.job import Job, Tell

__all__ = ["THREAD_NAMES", "Outcome", "logged", "main", "perform", "perform_text", "threads_limited"]

THREAD_NAMES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_TELL_EVERY_S: Final = 0.1  # a job that tells each of its steps must not keep its parent busy


@dataclass(frozen=True)
class Outcome:
    """What came of a job: its result, or why it failed and where."""

    ok: bool
    value: Any
    trace: str = ""


def _trace(error: BaseException) -> str:
    """Return the traceback from the job's own first line on."""
    inner = error.__traceback__.tb_next if error.__traceback__ is not None else None
    return "".join(traceback.TracebackException(type(error), error, inner or error.__traceback__).format())


def perform(job: Job, tell: Tell) -> Outcome:
    """Run a job here and bring its error back as text: exceptions with their own constructors do not cross processes."""
    try:
        module, _, name = job.function.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        # what a job gets here is what it gets in a worker, and what a fresh run returns is what a resumed one will read
        arguments = json.loads(json.dumps(job.arguments))
        if "progress" not in arguments and "progress" in inspect.signature(function).parameters:
            arguments["progress"] = tell
        return Outcome(True, json.loads(json.dumps(function(**arguments), allow_nan=False)))
    except TemperError as error:
        return Outcome(False, str(error), _trace(error))
    except SystemExit as error:
        return Outcome(False, f"it called sys.exit({error.code!r})", _trace(error))
    except Exception as error:  # noqa: BLE001 - one job's fault must not keep the others from running; it is reported with its key
        return Outcome(False, f"{type(error).__name__}: {error}", _trace(error))


@contextmanager
def threads_limited(threads: int, more: Mapping[str, str] | None = None) -> Iterator[None]:
    """Let what runs in the block compute with so many threads, with some more of the environment.

    The number of threads decides in which order a sum is taken, so it has to be the same wherever a job runs. Libraries that are
    loaded in the block read it from the environment; torch is told where it is there already.
    """
    names = {**(more or {}), **dict.fromkeys(THREAD_NAMES, str(threads))}
    before = {name: os.environ.get(name) for name in names}
    torch = sys.modules.get("torch")
    threads_before = torch.get_num_threads() if torch is not None else None
    os.environ.update(names)
    if torch is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if torch is not None:
            torch.set_num_threads(threads_before)


@contextmanager
def logged(log: Path, *, again: bool) -> Iterator[None]:
    """Send both output streams of this process to a log, also what other languages write; remove the log where it stays empty."""
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = [os.dup(1), os.dup(2)]
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if again else os.O_TRUNC), 0o644)
    try:
        for number in (1, 2):
            os.dup2(target, number)
        os.close(target)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)
        if log.stat().st_size == 0:
            log.unlink()


def perform_text(text: str) -> str:
    """Run a job on a Ray worker: request and answer as JSON text.

    The log is written to its place where this machine has the folder; else its end travels back with the answer.
    """
    request = json.loads(text)
    path = request["path"]
    sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]  # the driver's order decides which module is meant
    with tempfile.TemporaryDirectory(prefix="temper-job-") as scratch:
        log = Path(request["log"])
        elsewhere = not log.parent.is_dir()
        if elsewhere:
            log = Path(scratch) / log.name
        with threads_limited(request["threads"], request["environment"]), logged(log, again=request["attempt"] > 1):
            outcome = perform(Job(request["key"], request["function"], request["arguments"]), lambda *_: None)
            if outcome.trace:
                sys.stderr.write(outcome.trace)
        end = log.read_text(encoding="utf-8", errors="replace")[-100_000:] if elsewhere and log.exists() else ""
    return json.dumps({"ok": outcome.ok, "value": outcome.value, "log": end})


class _Answers:
    """The way back to the parent; any thread of a job may use it."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._told = 0.0

    def send(self, value: Any) -> None:
        with self._lock:
            self._pipe.write(json.dumps(value).encode() + b"\n")
            self._pipe.flush()

    def tell(self, stage: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if done >= total or now - self._told >= _TELL_EVERY_S:
            self._told = now
            self.send({"progress": [str(stage), int(done), int(total), str(note)]})


def _listen(requests: BinaryIO, inbox: queue.SimpleQueue[Any]) -> None:
    for line in requests:
        inbox.put(json.loads(line))
    # the parent is gone without a farewell: nobody waits for this job, and what it started must end with it
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Work for the parent process until it says farewell."""
    requests, answers = os.fdopen(os.dup(0), "rb"), _Answers(os.fdopen(os.dup(1), "wb"))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent that a shell put in the background hands down a deaf ear
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, inbox), daemon=True).start()
    answers.send({"ready": os.getpid()})
    try:
        while (request := inbox.get()) is not None:
            with logged(Path(request["log"]), again=request["attempt"] > 1):
                outcome = perform(Job(request["key"], request["function"], request["arguments"]), answers.tell)
                if outcome.trace:
                    sys.stderr.write(outcome.trace)
            answers.send({"ok": outcome.ok, "value": outcome.value})
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)
