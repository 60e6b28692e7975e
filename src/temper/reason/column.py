"""Traces that come with the data: a column of the rows, or of another file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from temper.data.provider import Request
from temper.data.readers import read
from temper.errors import DataError, InputError, nearest
from temper.reason.segments import Segment
from temper.reason.source import TraceSource
from temper.reason.tracefile import Trace
from temper.recipe import DataSource, WorldSection

__all__ = ["ColumnTraces"]


@dataclass(frozen=True, slots=True)
class _Held:
    """A trace of a document, what its row says of its end, and the row of another file that holds it alone."""

    text: str
    ended: str | None
    row: dict[str, Any] | None = None


class ColumnTraces(TraceSource):
    """Traces that a column holds, one text or a list of them for the segments of a document, in order.

    In another file a row names its document in the column `document`, of which several rows are its segments, in order; where there is
    none, in the column `id`. What `temper traces` writes is such a file: `{trace_column: {path: traces.jsonl, column: text}}`.

    Columns of such a file that say what a trace is about are compared: `segment`, its place in the document, by which the rows of a document
    are put in order; `start`, its first token; `prompt`, which must hold its words; and `end`, the token after its last, where there is no
    prompt: another model may have written the traces, to which a whole question has another number of tokens.
    """

    name: ClassVar[str] = "trace_column"
    shorthand: ClassVar[str] = "column"
    column: str = Field("trace", min_length=1, description="Holds a trace, with or without its tags.")
    path: str | None = Field(None, min_length=1, description="Another file that holds the column; else the rows themselves.")

    def traces(self, request: Request, segments: Sequence[Segment], path: Path | None = None) -> list[Trace]:
        """Return what the column holds for each segment."""
        where = f"data.{request.role}: {self.path or request.source.path}"
        held = self._held(request, segments, where)
        asked: dict[str, list[Segment]] = {}
        for segment in segments:
            asked.setdefault(segment.document, []).append(segment)
        counts = {document: len(parts) for document, parts in asked.items()}
        if wrong := [document for document, count in counts.items() if len(held.get(document, [])) != count]:
            missing = [document for document in wrong if document not in held]
            first = (missing or wrong)[0]
            raise DataError(
                f"{where}: does not match its documents: {len(missing)} of {len(counts)} have no trace"
                + (f" ({', '.join(missing[:3])})" if missing else "")
                + f", {len(wrong) - len(missing)} have another number of traces than segments. {first!r} has {len(held.get(first, []))} for "
                f"{counts[first]} segments (segments_per_doc = {self.segments_per_doc})."
            )
        generator = f"{self.path or request.source.path}: {self.column}"
        found: dict[str, Trace] = {}
        for document, parts in asked.items():
            for segment, one in zip(parts, _in_order(held[document], parts, where), strict=True):
                found[segment.id] = self.foreign(request, segment, one.text, generator, ended=one.ended)
        return [found[segment.id] for segment in segments]

    def _held(self, request: Request, segments: Sequence[Segment], where: str) -> dict[str, list[_Held]]:
        """Return the traces of each document.

        Raises:
            DataError: The column is missing or holds no text, or traces belong to no document.
        """
        held: dict[str, list[_Held]] = {}
        if self.path is None:
            for segment in segments:
                held.setdefault(segment.document, self._texts(segment.row, f"row {segment.document!r}", where))
            return held
        if self.path.startswith("world:"):
            raise InputError(f"{where}: traces are not joined from a world: path. Give it as the source, and its column alone.")
        rows = read(DataSource(path=self.path), WorldSection())
        name = "document" if "document" in rows[0] else "id"
        for number, row in enumerate(rows, start=1):
            if not isinstance(row.get(name), str | int):
                raise DataError(f"{where} row {number}: column {name!r} names no document (seen: {row.get(name)!r:.40})")
            texts = self._texts(row, f"row {number} (document {str(row[name])!r})", where)
            is_alone = isinstance(row[self.column], str)
            held.setdefault(str(row[name]), []).extend(_Held(one.text, one.ended, row if is_alone else None) for one in texts)
        known = {row["id"] for row in request.rows}
        strange = [document for document in held if document not in known]
        if strange and request.source.limit is None and not request.source.skip:
            raise DataError(
                f"{where}: does not match its documents: {len(strange)} of the {len(held)} documents that it has traces of are not among the "
                f"{len(known)} of {request.source.path} ({', '.join(strange[:3])}); {len(held) - len(strange)} are."
            )
        return held

    def _texts(self, row: dict[str, Any], name: str, where: str) -> list[_Held]:
        value = row.get(self.column)
        given = value if isinstance(value, list) else [value]
        texts = [text for text in given if isinstance(text, str)]
        if not texts or len(texts) < len(given):
            columns = [column for column in row if column != "id"]
            if self.column not in row:
                near, known = nearest(self.column, columns), ", ".join(columns)
                raise DataError(f"{where} {name}: column {self.column!r} is not there{near}. Its columns: {known}.")
            raise DataError(
                f"{where} {name}: column {self.column!r} holds {value!r:.40}, expected text or a list of texts. Leave the row out, or give "
                "its trace."
            )
        ended = row.get("stopped_by")
        return [_Held(text, ended if isinstance(ended, str) else None) for text in texts]


def _in_order(held: Sequence[_Held], segments: Sequence[Segment], where: str) -> Sequence[_Held]:
    """Return the traces of a document in the order of its segments.

    Raises:
        DataError: A row says that it is about something else.
    """
    rows = [one.row for one in held if one.row is not None]
    if len(rows) < len(held):
        return held
    if any("segment" in row for row in rows):
        for row in rows:
            if type(row.get("segment")) is not int:
                raise _mismatch(where, segments[0], "segment", row.get("segment"), "a whole number in each of its rows")
        held = sorted(held, key=lambda one: one.row["segment"] if one.row is not None else 0)
    for one, segment in zip(held, segments, strict=True):
        row = one.row or {}
        prompt = row.get("prompt")
        if isinstance(prompt, str) and prompt != segment.prompt and segment.text.strip() not in prompt:
            raise _mismatch(where, segment, "prompt", prompt, f"a text that holds {segment.text.strip()!r:.60}")
        places = {"segment": segment.number, "start": segment.start} | ({} if isinstance(prompt, str) else {"end": segment.end})
        for name, expected in places.items():
            if name in row and row[name] != expected:
                raise _mismatch(where, segment, name, row[name], expected)
    return held


def _mismatch(where: str, segment: Segment, name: str, seen: Any, expected: Any) -> DataError:
    return DataError(
        f"{where}: does not match its documents: the trace of {segment.document!r}, segment {segment.number}, is about something else: column "
        f"{name!r} holds {seen!r:.60}, expected {expected}. Cut and ask as when it was made, or take the column out where it means "
        "something else."
    )
