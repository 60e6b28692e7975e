"""A job as data, and the terms on which jobs run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from temper.errors import InputError
from temper.files import hash_json

__all__ = ["Claim", "Job", "Keep", "Tell", "Terms"]

Claim = Callable[["Job"], bool]
"""Asked before a job is begun; False where it is done by now or another call works on it."""

Keep = Callable[["Job", bool, Any], None]
"""Called once a job with (job, whether it ended well, its result or else why it failed)."""

Tell = Callable[[str, int, int, str], None]
"""Called with (stage, done, total, note)."""


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        key: Names the job and its result file; letters, digits, dot, dash, underscore.
        function: ``"package.module:function"``; called with the arguments as keywords, returns JSON. It may take a keyword
            `progress` beside them, a function of (stage, done, total, note), and tell how far it is.
        arguments: JSON values.
    """

    key: str
    function: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.key):
            raise InputError(f"job key {self.key!r}: use letters, digits, dot, dash and underscore only")
        if not re.fullmatch(r"\w+(\.\w+)*:\w+", self.function):
            raise InputError(f"job {self.key}: function {self.function!r} is no name of one. Write package.module:function.")
        try:
            json.dumps(self.arguments)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"job {self.key}: its arguments are no JSON ({error}). Give numbers, text, lists and mappings."
            ) from error

    @property
    def content_hash(self) -> str:
        """Return the hash of what the job does, for telling whether a stored result is its own."""
        return hash_json({"function": self.function, "arguments": self.arguments})


@dataclass(frozen=True)
class Terms:
    """How jobs are run.

    Attributes:
        workers: Jobs at the same time.
        threads: Threads a job computes with.
        gpus: Devices a job has to itself; 0 where it is not told.
        attempts: How often a job is begun whose process ends without a result.
        logs: Folder of the logs, one a job.
        tell: Called with what jobs say about themselves.
        claim: Asked before a job is begun the first time.
        address: The Ray cluster.
    """

    workers: int
    threads: int
    gpus: int
    attempts: int
    logs: Path
    tell: Tell
    claim: Claim
    address: str | None = None

    def log_of(self, job: Job) -> Path:
        """Return where the output of a job goes."""
        return self.logs / f"{job.key}.log"
