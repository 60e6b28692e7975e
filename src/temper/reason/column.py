"""Traces that come with the data: a column of the rows, or of another file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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

_Held = dict[str, list[tuple[str, str | None]]]
"""Document to its traces, each with what its row says of its end."""


class ColumnTraces(TraceSource):
    """Traces that a column holds, one text or a list of them for the segments of a document, in order.

    In another file a row names its document in the column `document`, of which several rows are its segments, in order; where there is
    none, in the column `id`. What `temper traces` writes is such a file: `{trace_column: {path: traces.jsonl, column: text}}`.
    """

    name: ClassVar[str] = "trace_column"
    shorthand: ClassVar[str] = "column"
    column: str = Field("trace", min_length=1, description="Holds a trace, with or without its tags.")
    path: str | None = Field(None, min_length=1, description="Another file that holds the column; else the rows themselves.")

    def traces(self, request: Request, segments: Sequence[Segment], path: Path | None = None) -> list[Trace]:
        """Return what the column holds for each segment."""
        where = f"data.{request.role}: {self.path or request.source.path}"
        held = self._held(request, segments, where)
        counts = Counter(segment.document for segment in segments)
        if wrong := [document for document, count in counts.items() if len(held.get(document, [])) != count]:
            missing = [document for document in wrong if document not in held]
            first = (missing or wrong)[0]
            raise DataError(
                f"{where}: does not match its documents: {len(missing)} of {len(counts)} have no trace"
                + (f" ({', '.join(missing[:3])})" if missing else "")
                + f", {len(wrong) - len(missing)} have another number of traces than segments. {first!r} has {len(held.get(first, []))} for "
                f"{counts[first]} segments (segments_per_doc = {self.segments_per_doc})."
            )
        taken: Counter[str] = Counter()
        traces = []
        for segment in segments:
            text, ended = held[segment.document][taken[segment.document]]
            taken[segment.document] += 1
            generator = f"{self.path or request.source.path}: {self.column}"
            traces.append(self.foreign(request, segment, text, generator, ended=ended))
        return traces

    def _held(self, request: Request, segments: Sequence[Segment], where: str) -> _Held:
        """Return the traces of each document.

        Raises:
            DataError: The column is missing or holds no text, or traces belong to no document.
        """
        held: _Held = {}
        if self.path is None:
            for segment in segments:
                held.setdefault(segment.document, self._texts(segment.row, segment.document, where))
            return held
        if self.path.startswith("world:"):
            raise InputError(f"{where}: traces are not joined from a world: path. Give it as the source, and its column alone.")
        rows = read(DataSource(path=self.path), WorldSection())
        name = "document" if "document" in rows[0] else "id"
        for row in rows:
            if not isinstance(row.get(name), str | int):
                raise DataError(f"{where} row {row['id']!r}: column {name!r} names no document (seen: {row.get(name)!r:.40})")
            held.setdefault(str(row[name]), []).extend(self._texts(row, row["id"], where))
        known = {row["id"] for row in request.rows}
        strange = [document for document in held if document not in known]
        if strange and request.source.limit is None and not request.source.skip:
            raise DataError(
                f"{where}: does not match its documents: {len(strange)} of the {len(held)} documents that it has traces of are not among the "
                f"{len(known)} of {request.source.path} ({', '.join(strange[:3])}); {len(held) - len(strange)} are."
            )
        return held

    def _texts(self, row: dict[str, Any], name: str, where: str) -> list[tuple[str, str | None]]:
        value = row.get(self.column)
        given = value if isinstance(value, list) else [value]
        texts = [text for text in given if isinstance(text, str)]
        if not texts or len(texts) < len(given):
            columns = [column for column in row if column != "id"]
            seen = "is not there" if self.column not in row else f"holds {value!r:.40}, expected text or a list of texts"
            raise DataError(
                f"{where} row {name!r}: column {self.column!r} {seen}{nearest(self.column, columns)}. Its columns: {', '.join(columns)}."
            )
        ended = row.get("stopped_by")
        return [(text, ended if isinstance(ended, str) else None) for text in texts]
