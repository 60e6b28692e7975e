"""Which job is begun next, and again: jobs whose process died are tried once more after the others.

A job that dies may be the victim of what ran beside it, most of all when memory ran out. So it goes to the end of the line, and
its last attempt has the machine to itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from temper.jobs.job import Job, Keep, Terms

__all__ = ["Attempt", "Attempts"]


@dataclass(frozen=True)
class Attempt:
    """One try of a job, counted from 1."""

    job: Job
    number: int


class Attempts:
    """The line of what is to be begun.

    Args:
        jobs: All jobs, in order.
        terms: How often one is tried.
        keep: Told about a job that died each time.
    """

    def __init__(self, jobs: Sequence[Job], terms: Terms, keep: Keep) -> None:
        self._waiting = deque(Attempt(job, 1) for job in jobs)
        self._alone: deque[Attempt] = deque()
        self._terms = terms
        self._keep = keep
        self.running: int = 0

    @property
    def finished(self) -> bool:
        """Return whether nothing waits and nothing runs."""
        return not (self._waiting or self._alone or self.running)

    def take(self) -> Attempt | None:
        """Return what to begin now, or None where it must wait or there is nothing."""
        while self._waiting:
            attempt = self._waiting.popleft()
            if attempt.number > 1 or self._terms.claim(attempt.job):
                self.running += 1
                return attempt
        if self._alone and self.running == 0:
            self.running += 1
            return self._alone.popleft()
        return None

    def ended(self, attempt: Attempt, ok: bool, value: object) -> None:
        """Take note of an attempt that came back with a result or an error."""
        self.running -= 1
        self._keep(attempt.job, ok, value)

    def died(self, attempt: Attempt, how: str) -> None:
        """Take note of an attempt whose process ended without a result: the job gets in line again, or has failed."""
        self.running -= 1
        allowed, number = self._terms.attempts, attempt.number
        if number >= allowed:
            times = f", {allowed} times" if allowed > 1 else ""
            self._keep(attempt.job, False, f"its process {how}{times}")
            return
        log = self._terms.log_of(attempt.job)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as handle:
            handle.write(f"== attempt {number + 1} of {allowed}: its process {how} ==\n")
        self._terms.tell(f"{attempt.job.key} attempt", number + 1, allowed, f"its process {how}")
        (self._alone if number + 1 == allowed else self._waiting).append(Attempt(attempt.job, number + 1))
