"""Jobs as tasks of Ray: a cluster that is there, or one of our own on this machine.

Ray is an optional package. Its own retries are off: a job that takes its process down is tried again by our count, as in
`processes`, and its log stays beside its result.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
import secrets
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

from temper.errors import InputError, MissingExtraError, RunError
from temper.jobs.attempts import Attempt, Attempts
from temper.jobs.job import Job, Keep, Terms

__all__ = ["run_on_ray"]

_PASSED: Final = ("TEMPER_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "TORCH_", "CUBLAS_", "PYTHONHASHSEED")
_STORE_BYTES: Final = 80 << 20  # tasks exchange short texts; Ray takes a third of the memory unless told
_KNOCK_S: Final = 10.0
_WAIT_S: Final = 1.0  # Ctrl-C is heard this late


@functools.cache
def _password() -> str:
    return secrets.token_hex(32)  # one a process: Ray reads it once


@contextlib.contextmanager
def _settings_of_ray(**defaults: str) -> Iterator[None]:
    """Set what the user has not set, while the block lasts; what Ray sets itself goes with it."""
    before = set(os.environ)
    os.environ.update({name: value for name, value in defaults.items() if name not in before})
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Ray prints there that a worker died; the stream is the caller's
            yield
    finally:
        logger.setLevel(level)
        for name in [name for name in os.environ if name.startswith(("RAY_", "PYTHONBREAKPOINT")) and name not in before]:
            del os.environ[name]


def _knock(address: str) -> None:
    """Fail at once where nobody answers: Ray itself tries for minutes."""
    found = re.fullmatch(r"(?:ray://)?\[?(.+?)\]?:(\d+)", address)
    if found is None:
        return  # "auto" and other names that Ray resolves
    try:
        socket.create_connection((found[1], int(found[2])), timeout=_KNOCK_S).close()
    except (OSError, OverflowError) as error:
        raise RunError(
            f"jobs: no Ray answers at {address} ({error}). Look at the address, or give none to start one here."
        ) from error


@contextlib.contextmanager
def _connected(ray: Any, terms: Terms) -> Iterator[None]:
    """Use the Ray of this process, or connect to a cluster, or start one; end only what was begun here."""
    if ray.is_initialized():
        yield
        return
    address = terms.address or os.environ.get("RAY_ADDRESS")
    if address:
        _knock(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    # no usage statistics; a password that lives as long as this process, since Ray 2.60 else leaves one in the home folder
    with _settings_of_ray(
        RAY_USAGE_STATS_ENABLED="0",
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
        **({} if address else {"RAY_AUTH_TOKEN": _password()}),
    ):
        try:
            if address:
                ray.init(address=address, **quiet)
            else:
                ray.init(
                    address="local",
                    num_cpus=terms.workers * terms.threads,
                    num_gpus=None if terms.gpus else 0,
                    _node_ip_address="127.0.0.1",  # heard on this machine only
                    include_dashboard=False,
                    object_store_memory=_STORE_BYTES,
                    **quiet,
                )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RunError(f"jobs: Ray at {address or 'this machine'} cannot be used: {error}") from error
        try:
            if not address and ray.cluster_resources().get("GPU", 0) < terms.gpus:
                raise InputError(f"jobs: gpus_per_job = {terms.gpus}, but Ray finds fewer devices here. Lower it.")
            yield
        finally:
            ray.shutdown()


def _request(attempt: Attempt, terms: Terms) -> str:
    job = attempt.job
    return json.dumps(
        {
            "key": job.key,
            "function": job.function,
            "arguments": job.arguments,
            "attempt": attempt.number,
            "log": str(terms.log_of(job).absolute()),
            "threads": terms.threads,
            "path": sys.path,
            "environment": {name: value for name, value in os.environ.items() if name.startswith(_PASSED)},
        }
    )


def run_on_ray(jobs: Sequence[Job], terms: Terms, keep: Keep) -> None:
    """Run jobs as tasks of Ray and hand over what comes of each.

    Raises:
        MissingExtraError: Ray is not installed.
        RunError: The cluster cannot be reached, or no local one starts.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "ray", "the jobs back end 'ray'") from None
    from ray import exceptions

    from temper.jobs.worker import perform_text

    line = Attempts(jobs, terms, keep)
    with _connected(ray, terms):
        task = ray.remote(perform_text).options(max_retries=0, num_cpus=terms.threads, num_gpus=terms.gpus)
        running: dict[Any, Attempt] = {}
        try:
            while not line.finished:
                while len(running) < terms.workers and (attempt := line.take()):
                    running[task.remote(_request(attempt, terms))] = attempt
                ended, _ = ray.wait(list(running), timeout=_WAIT_S) if running else ([], [])
                for reference in ended:
                    attempt = running.pop(reference)
                    try:
                        answer = json.loads(ray.get(reference))
                    except exceptions.RayTaskError as error:  # our own frame failed there, before or after the job
                        line.ended(attempt, False, f"its Ray worker could not run it: {str(error.cause or error).strip()}")
                    except exceptions.RayError as error:
                        line.died(attempt, f"ended without a result ({type(error).__name__})")
                    else:
                        if answer["log"]:
                            log = terms.log_of(attempt.job)
                            log.parent.mkdir(parents=True, exist_ok=True)
                            with log.open("a", encoding="utf-8") as handle:
                                handle.write(answer["log"])
                        line.ended(attempt, answer["ok"], answer["value"])
        finally:
            for reference in running:
                ray.cancel(reference, force=True)
