"""Traces as a file: JSON Lines, one trace a line, in the order of the documents. The file is what a generation leaves behind.

A long generation is done in chunks of fixed size, each written whole beside the file as KEY.parts/NUMBER.jsonl and joined at the end. So
a run that is killed loses the chunk it was in, and goes on to the same file, byte for byte. Several processes of a run share the chunks by
rank; the first of them joins. Of several runs that want the same file one makes it, and the others wait for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, TextIO

from temper import processes
from temper.errors import DataError, RunError
from temper.files import write_jsonl
from temper.reason.segments import Segment

__all__ = ["StoppedBy", "Trace", "alone", "read_traces", "stored_in_chunks", "write_traces"]

log = logging.getLogger(__name__)

StoppedBy = Literal["closed", "end", "length"]

_STOPS: Final = ("closed", "end", "length")


@dataclass(frozen=True, slots=True)
class Trace:
    """One trace.

    Attributes:
        document: Id of the row it is about.
        segment: Place of its segment in the document.
        start: First token of that segment.
        end: The token after its last.
        prompt: The text it continues.
        text: What was written after the opening tag, its closing tag included where there is one, uncut.
        tokens: How many tokens it has.
        stopped_by: closed: it stopped at its closing tag; end: with its end token; length: it was cut.
        generator: What wrote it: the hash of weights, a commit, a path, a column, a function.
        seed: Of the draws; None where nothing was drawn.
    """

    document: str
    segment: int
    start: int
    end: int
    prompt: str
    text: str
    tokens: int
    stopped_by: StoppedBy
    generator: str
    seed: int | None


def write_traces(path: Path, traces: Iterable[Trace]) -> Path:
    """Write traces whole."""
    return write_jsonl(path, (asdict(trace) for trace in traces))


def read_traces(path: Path, segments: Sequence[Segment]) -> list[Trace]:
    """Return the traces of a file, one for each segment, in their order.

    Raises:
        DataError: The file is broken, or holds traces of other segments.
    """
    lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    traces = [_parsed(line, path, number) for number, line in enumerate(lines, start=1)]
    found = [(trace.document, trace.segment) for trace in traces]
    wanted = [(segment.document, segment.number) for segment in segments]
    if found != wanted:
        raise DataError(
            f"{path}: holds {len(found)} traces that are not those of the {len(wanted)} segments. Remove the file; it is made again."
        )
    return traces


def _parsed(line: bytes, path: Path, number: int) -> Trace:
    try:
        row: Any = json.loads(line.decode())
        trace = Trace(**{field.name: row[field.name] for field in fields(Trace)})
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} line {number}: is no trace ({type(error).__name__}: {error}). Remove the file; it is made again."
        ) from error
    texts, counts = ("document", "prompt", "text", "generator"), ("segment", "start", "end", "tokens")
    wrong = [name for name in texts if not isinstance(row[name], str)]
    wrong += [name for name in counts if type(row[name]) is not int]
    wrong += ["stopped_by"] if row["stopped_by"] not in _STOPS else []
    wrong += ["seed"] if row["seed"] is not None and type(row["seed"]) is not int else []
    if wrong:
        raise DataError(
            f"{path} line {number}: is no trace ({wrong[0]} holds {row[wrong[0]]!r:.40}). Remove the file; it is made again."
        )
    return trace


@contextlib.contextmanager
def alone(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Be the only run that makes a file, or come out of the wait for another one with the file there; look again inside.

    The lock lies beside the file and is taken away at the end. The system frees it when its process ends, however it ends.

    Args:
        path: The file; where it is there already nothing is held.
        waiting: Called once where another process holds the lock.
    """
    lock = path.with_suffix(".lock")
    with contextlib.ExitStack() as held:
        while not path.exists():
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = held.enter_context(lock.open("w"))
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("another process makes %s; waiting for it", path)
                waiting()
                fcntl.flock(handle, fcntl.LOCK_EX)
            if _lies_at(handle, lock):  # else its holder took it away while this process waited: another one may be there
                held.callback(lock.unlink, missing_ok=True)  # before the handle is closed: nobody else can be in here yet
                break
        yield


def _lies_at(handle: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


def stored_in_chunks(
    path: Path,
    segments: Sequence[Segment],
    chunks: Callable[[], Sequence[Sequence[int]]],
    write: Callable[[Sequence[int]], Sequence[Trace]],
    done: Callable[[int], None],
    waiting: Callable[[], None] = lambda: None,
) -> list[Trace]:
    """Return the traces of all segments, from the file where it is there, else made in chunks.

    Every process of a run must call this; the chunks are shared among them. Another run that wants the same file waits until it is there.

    Args:
        path: KEY.jsonl, where KEY names all that decides the traces.
        segments: What they are about.
        chunks: Returns the places of the segments of each chunk, the same in every process and every run.
        write: Makes the traces of a chunk.
        done: Called with the number of segments that are there after each chunk.
        waiting: Called once where another run makes the file.

    Raises:
        RunError: A process wrote its part where the first one cannot see it.
    """
    parts = path.with_suffix(".parts")
    with alone(path, waiting) if processes.is_first() else contextlib.nullcontext():
        processes.wait()  # from here on the file is there, or the first process holds the lock: all of them see the same
        places = [] if path.exists() else chunks()
        _make_parts(parts, places, write, done)
        processes.wait()
        if processes.is_first() and not path.exists():
            _join(path, parts, places, segments)
        processes.wait()
        if not path.exists():
            raise _not_shared(path, "the file")
        if processes.is_first():
            shutil.rmtree(parts, ignore_errors=True)  # of no use once the file is there; what cannot be removed does no harm
    return read_traces(path, segments)


def _not_shared(place: Path, what: str) -> RunError:
    return RunError(
        f"{place}: {what} is not there, which another process was to write. All processes must see the same folder: set TEMPER_CACHE to one "
        "that they share."
    )


def _make_parts(
    parts: Path,
    places: Sequence[Sequence[int]],
    write: Callable[[Sequence[int]], Sequence[Trace]],
    done: Callable[[int], None],
) -> None:
    """Write the chunks of this process that are not there yet."""
    count = 0
    for number, chunk in enumerate(places):
        if number % processes.count() != processes.rank() % processes.count():
            continue
        part = parts / f"{number:05d}.jsonl"
        if not part.exists():
            write_traces(part, write(chunk))
        count += len(chunk)
        done(count)


def _join(path: Path, parts: Path, places: Sequence[Sequence[int]], segments: Sequence[Segment]) -> None:
    made: dict[int, Trace] = {}
    for number, chunk in enumerate(places):
        part = parts / f"{number:05d}.jsonl"
        if not part.exists():
            raise _not_shared(parts, f"part {number}")
        made |= zip(chunk, read_traces(part, [segments[place] for place in chunk]), strict=True)
    write_traces(path, (made[place] for place in range(len(segments))))
