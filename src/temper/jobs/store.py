"""Results on disk: one file a job, whole or not at all, and one call at a time that works on it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from pathlib import Path
from typing import IO, Any

from temper.errors import InputError
from temper.files import read_json, write_json
from temper.jobs.job import Job

__all__ = ["Claims", "last_lines", "store_result", "stored_result"]


def _file(job: Job, folder: Path) -> Path:
    return folder / f"{job.key}.json"


def stored_result(job: Job, folder: Path) -> tuple[bool, Any]:
    """Return whether a folder holds the result of a job, and the result.

    Raises:
        InputError: The file belongs to a job that does something else.
        DataError: The file is damaged.
    """
    path = _file(job, folder)
    if not path.exists():
        return False, None
    entry = read_json(path)
    if not isinstance(entry, dict) or entry.get("job") != job.content_hash or "result" not in entry:
        raise InputError(
            f"{path}: holds the result of another job with this key. Give another key or folder, or remove the file."
        )
    return True, entry["result"]


def store_result(job: Job, result: Any, folder: Path) -> None:
    """Write the result of a job; the file is also the mark that the job is done."""
    write_json(_file(job, folder), {"job": job.content_hash, "key": job.key, "result": result})


class Claims:
    """The jobs of a folder that one call works on now, so that no other call runs them at the same time.

    A claim is a locked file beside the result. The kernel drops the lock when the process ends, however it ends, and workers do not
    inherit it.

    Args:
        folder: The folder of the results.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, IO[str]] = {}
        self.owners: dict[str, str] = {}

    def take(self, job: Job) -> bool:
        """Claim a job; False where another call has it, whose name is then in `owners`.

        Raises:
            InputError: The folder cannot be written to.
        """
        path = self._folder / f".{job.key}.lock"
        while True:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                handle = path.open("a+")
            except OSError as error:
                raise InputError(
                    f"{self._folder}: cannot hold the results of jobs ({error.strerror}). Give another folder."
                ) from error
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                self.owners[job.key] = handle.read().strip() or "unknown"
                handle.close()
                return False
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(handle.fileno()).st_ino:
                    break
            handle.close()  # whoever held it has removed it in between: this file is nobody's any more
        handle.truncate(0)
        handle.write(f"{os.getpid()} on {socket.gethostname()}")
        handle.flush()
        self._held[job.key] = handle
        return True

    def release(self, job: Job) -> None:
        """Give a job up."""
        self._drop(job.key)

    def close(self) -> None:
        """Give all jobs up."""
        for key in list(self._held):
            self._drop(key)

    def _drop(self, key: str) -> None:
        with self._held.pop(key):  # removed before the lock goes, so that nobody's lock is removed
            (self._folder / f".{key}.lock").unlink(missing_ok=True)


def last_lines(log: Path, count: int = 6) -> list[str]:
    """Return the last lines of a log that say something, each cut at 200 characters."""
    try:
        with log.open("rb") as handle:
            handle.seek(0, os.SEEK_END)
            handle.seek(max(0, handle.tell() - 8192))
            text = handle.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line[:200] for line in text.splitlines() if line.strip()][-count:]
