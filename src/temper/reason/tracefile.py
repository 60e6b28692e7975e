"""Traces as a file: JSON Lines, one trace a line, in the order of the documents. The file is what a generation leaves behind.

A long generation is done in chunks of fixed size, each written whole beside the file as KEY.parts/NUMBER.jsonl and joined at the end. So
a run that is killed loses the chunk it was in, and goes on to the same file, byte for byte. Several processes share the chunks by rank;
the first of them joins.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from temper import processes
from temper.errors import DataError, RunError
from temper.files import write_jsonl
from temper.reason.segments import Segment

__all__ = ["StoppedBy", "Trace", "read_traces", "stored_in_chunks", "write_traces"]

StoppedBy = Literal["closed", "end", "length"]


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
    traces = []
    with path.open(encoding="utf-8", newline="\n") as handle:
        for number, line in enumerate(handle, start=1):
            traces.append(_parsed(line, path, number))
    found = [(trace.document, trace.segment) for trace in traces]
    wanted = [(segment.document, segment.number) for segment in segments]
    if found != wanted:
        raise DataError(
            f"{path}: holds {len(found)} traces that are not those of the {len(wanted)} segments. Remove the file; it is made again."
        )
    return traces


def _parsed(line: str, path: Path, number: int) -> Trace:
    try:
        row: Any = json.loads(line)
        return Trace(**{field.name: row[field.name] for field in fields(Trace)})
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} line {number}: is no trace ({type(error).__name__}: {error}). Remove the file; it is made again."
        ) from error


def stored_in_chunks(
    path: Path,
    segments: Sequence[Segment],
    chunks: Callable[[], Sequence[Sequence[int]]],
    write: Callable[[Sequence[int]], Sequence[Trace]],
    done: Callable[[int], None],
) -> list[Trace]:
    """Return the traces of all segments, from the file where it is there, else made in chunks.

    Every process of a run must call this; the chunks are shared among them.

    Args:
        path: KEY.jsonl, where KEY names all that decides the traces.
        segments: What they are about.
        chunks: Returns the places of the segments of each chunk, the same in every process and every run.
        write: Makes the traces of a chunk.
        done: Called with the number of segments that are there after each chunk.

    Raises:
        RunError: A process wrote its part where the first one cannot see it.
    """
    parts = path.with_suffix(".parts")
    places: Sequence[Sequence[int]] = []
    if not path.exists():
        places, count = chunks(), 0
        for number, chunk in enumerate(places):
            if number % processes.count() != processes.rank() % processes.count():
                continue
            part = parts / f"{number:05d}.jsonl"
            if not part.exists() and not path.exists():
                write_traces(part, write(chunk))
            count += len(chunk)
            done(count)
    processes.wait()
    if processes.is_first() and not path.exists():
        made: dict[int, Trace] = {}
        for number, chunk in enumerate(places):
            if not (parts / f"{number:05d}.jsonl").exists():
                raise RunError(
                    f"{parts}: part {number} is not there, which another process was to write. All processes must see the same folder: set "
                    "TEMPER_CACHE to one that they share."
                )
            made |= zip(chunk, read_traces(parts / f"{number:05d}.jsonl", [segments[place] for place in chunk]), strict=True)
        write_traces(path, (made[place] for place in range(len(segments))))
    processes.wait()
    if processes.is_first():
        shutil.rmtree(parts, ignore_errors=True)  # of no use once the file is there; what cannot be removed does no harm
    return read_traces(path, segments)
