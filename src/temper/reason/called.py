"""Traces that a function gives: another model, a service, a programme."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr

from temper import processes
from temper.data.provider import Request
from temper.errors import DataError, InputError, nearest
from temper.files import hash_json
from temper.reason.segments import Segment
from temper.reason.source import FORM, TraceSource
from temper.reason.tracefile import Trace, alone, read_traces, write_traces

__all__ = ["CalledTraces", "TraceFunction"]

TraceFunction = Callable[[Sequence[Segment], int], Sequence[str]]
"""(segments, seed) -> one text for each of them, with or without tags."""


class CalledTraces(TraceSource):
    """Traces that a function gives: `function(segments, seed)` returns one text for each segment.

    A recipe names an entry point of an installed package, never a path of a module, so that a recipe from elsewhere runs nothing that is
    not installed. In Python, `CalledTraces.from_function` takes any function. What a named function gave is kept by its name, the version of
    its package, the segments and the seed, and it is not called again for them. A plan calls no function, since one may cost money: it
    takes what is kept, or a sketch.
    """

    name: ClassVar[str] = "trace_callable"
    shorthand: ClassVar[str] = "callable"
    callable: str = Field(min_length=1, description="An entry point in the group temper.trace_callable.")
    _function: TraceFunction | None = PrivateAttr(None)

    @classmethod
    def from_function(cls, function: TraceFunction, **settings: Any) -> CalledTraces:
        """Return a source that calls a function of this process.

        Example:
            >>> CalledTraces.from_function(lambda segments, seed: ["So."] * len(segments), trigger="").callable
            '<lambda>'
        """
        made = cls(callable=getattr(function, "__name__", type(function).__name__), **settings)
        made._function = function
        return made

    def _point(self) -> tuple[EntryPoint, str]:
        """Return the entry point, and what tells its function apart.

        Raises:
            InputError: No installed package has it.
        """
        points = {point.name: point for point in entry_points(group="temper.trace_callable")}
        if self.callable not in points:
            raise InputError(
                f"trace_callable.callable = {self.callable!r}: no installed package has an entry point of that name in the group "
                f"temper.trace_callable{nearest(self.callable, points)}. Known: {', '.join(sorted(points)) or 'none'}."
            )
        point = points[self.callable]
        return point, f"{point.value} {point.dist.version if point.dist is not None else ''}".strip()

    def kept_at(self, request: Request, segments: Sequence[Segment]) -> Path | None:
        """Return the file of what a named function gave; a function of this process has no name to trust."""
        if self._function is not None or request.folder is None:
            return None
        asked = [[one.document, one.number, one.start, one.end, one.text, one.prompt] for one in segments]
        reading = [self.until, self.open_tag, self.close_tag]
        key = {"form": FORM, "callable": self._point()[1], "segments": asked, "seed": request.seed, "reading": reading}
        return request.folder / f"{hash_json(key)[:40]}.jsonl"

    def traces(self, request: Request, segments: Sequence[Segment], path: Path | None = None) -> list[Trace] | None:
        """Return what the function gives for the segments; None where nothing may be made and nothing is kept."""
        if self._function is not None:
            return None if request.load is None else self._called(request, segments, self._function, self.callable)
        point, generator = self._point()
        if request.load is None:
            return read_traces(path, segments) if path is not None and path.exists() else None
        if path is None:
            return self._called(request, segments, point.load(), generator)
        with processes.first_goes_ahead(), alone(path):
            if not path.exists():
                write_traces(path, self._called(request, segments, point.load(), generator))
        return read_traces(path, segments)

    def _called(self, request: Request, segments: Sequence[Segment], function: TraceFunction, generator: str) -> list[Trace]:
        texts = list(function(segments, request.seed))
        if len(texts) != len(segments) or not all(isinstance(text, str) for text in texts):
            raise DataError(
                f"data.{request.role}: {self.callable} gave {len(texts)} traces for {len(segments)} segments, expected a text for each"
            )
        return [
            self.foreign(request, segment, text, generator, seed=request.seed)
            for segment, text in zip(segments, texts, strict=True)
        ]
