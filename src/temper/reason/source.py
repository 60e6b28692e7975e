"""The base of all sources of traces: the settings they share, and the training rows that are made of traces.

A row reads

    trigger, line break, opening tag, trace                          keep_context drop: the trace stands alone, as in the release of R2MU
    prompt with segment or question and trigger, opening tag, trace  keep_context keep_unscored: what was asked is read and not scored

and of the trace the first `max_trace_tokens` tokens. The trigger and the tag are never scored; a row ends with an end token only
where the trace ended with one. A trace shorter than `min_trace_tokens` is left out together with its segment, and a document of which
no trace is left is dropped by name: what pairs documents with traces stays true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from temper.data.provider import Made, Request, RowProvider
from temper.data.tokenise import Dropped
from temper.errors import DataError, InputError, ModelError
from temper.reason.health import closing_note, trace_health
from temper.reason.segments import Segment, first_tokens, own_columns, segments_of
from temper.reason.tracefile import StoppedBy, Trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["FORM", "Collected", "TraceSource"]

FORM: Final = 1
"""Of what a file of traces is named by; another number where the same settings would give other traces."""


@dataclass(frozen=True)
class Collected:
    """The traces of a source before any is cut or left out.

    Attributes:
        segments: What was asked about.
        traces: One for each segment; None where they cannot be made yet.
        dropped: Rows that hold nothing to ask about.
        path: The file that keeps them, where one does.
    """

    segments: list[Segment]
    traces: list[Trace] | None
    dropped: list[Dropped]
    path: Path | None = None


class TraceSource(RowProvider):
    """What all sources of traces share."""

    segments_per_doc: int = Field(1, ge=1, description="N, the segments that are cut from a document; a short one has fewer.")
    segment_tokens: int = Field(512, ge=1, description="Tokens of a segment.")
    overlap: int = Field(0, ge=0, description="Tokens that a segment shares with the one before it.")
    trigger: str = Field("Let's reason this step by step.", description="What asks for a trace; nothing where it is empty.")
    trigger_position: Literal["after", "before"] = Field("after", description="Where the trigger stands, seen from the segment.")
    keep_context: Literal["drop", "keep_unscored"] = Field(
        "drop", description="drop: a row is trigger, tag and trace; keep_unscored: it begins with what was asked."
    )
    max_trace_tokens: int = Field(100, ge=1, description="The first tokens of a trace that a row keeps.")
    min_trace_tokens: int = Field(1, ge=1, description="Thoughts of fewer tokens are left out, each with its segment.")
    open_tag: str = Field("<think>", min_length=1)
    close_tag: str = Field("</think>", min_length=1)
    until: Literal["close", "end"] = Field(
        "close", description="close: a trace ends with the closing tag; end: the answer follows."
    )

    @field_validator("trigger", mode="before")
    @classmethod
    def _none_is_empty(cls, value: Any) -> Any:
        return "" if value is None else value  # `trigger=` on a command line

    @model_validator(mode="after")
    def _moves_on(self) -> TraceSource:
        if self.overlap >= self.segment_tokens:
            raise ValueError(f"overlap = {self.overlap}: must be below segment_tokens = {self.segment_tokens}")
        self._reaches("max_trace_tokens", self.max_trace_tokens)
        return self

    def _reaches(self, name: str, limit: int) -> None:
        if limit < self.min_trace_tokens:
            raise ValueError(f"{name} = {limit}: must be at least min_trace_tokens = {self.min_trace_tokens}, or no row is left")

    def kept_at(self, request: Request, segments: Sequence[Segment]) -> Path | None:
        """Return the file that keeps the traces, named by all that decides them; None where nothing is kept."""
        return None

    def traces(self, request: Request, segments: Sequence[Segment], path: Path | None) -> list[Trace] | None:
        """Return the trace of each segment, in their order; None where they cannot be made yet.

        Args:
            request: What is made.
            segments: What is asked about.
            path: What `kept_at` gave.

        Raises:
            DataError: The traces do not belong to the segments.
        """
        raise InputError(f"source {self.name} gives no traces")

    def collect(self, request: Request) -> Collected:
        """Return the traces as they are, before any is cut or left out.

        Raises:
            DataError: The rows hold nothing to ask about, or the traces do not belong to them.
            ModelError: The tokenizer cannot write the tags.
        """
        for name, tag in (("open_tag", self.open_tag), ("close_tag", self.close_tag)):
            _check_tag(name, tag, request.tokenizer)
        segments, dropped = segments_of(self, request.rows, request.tokenizer, request.source, f"data.{request.role}")
        if self.keep_context == "keep_unscored" and any(segment.source != segments[0].source for segment in segments):
            raise DataError(
                f"data.{request.role}: {request.source.path} holds documents and questions, which are rendered in two ways. Give them as two "
                "sources, or set keep_context to drop."
            )
        path = self.kept_at(request, segments)
        return Collected(segments, self.traces(request, segments, path), dropped, path)

    def make(self, request: Request) -> Made:
        """Return the rows of the traces; a sketch of them where they cannot be made yet."""
        return self.rows_of(request, self.collect(request))

    def rows_of(self, request: Request, collected: Collected) -> Made:
        """Return training rows of traces, without those that are too short.

        Raises:
            DataError: No trace is left.
        """
        segments, traces = collected.segments, collected.traces
        source = segments[0].source
        if self.keep_context == "drop":
            source = own_columns(request.source).model_copy(
                update={"template": "plain", "plain_format": "{prompt}", "system": None}
            )
        if traces is None:
            sketched = [self._row(segment, self._filler(request.tokenizer, segment), is_whole=False) for segment in segments]
            return Made(sketched, source, collected.dropped, {"traces": len(segments), "to_make": len(segments)}, is_sketch=True)
        rows: list[dict[str, Any]] = []
        short: dict[str, Dropped] = {}
        cut = 0
        for segment, trace in zip(segments, traces, strict=True):
            thought = trace.text.partition(self.close_tag)[0]
            _, length = first_tokens(request.tokenizer, thought, 1)
            length = length if thought.strip() else 0
            kept, _ = first_tokens(request.tokenizer, trace.text, self.max_trace_tokens)
            if length < self.min_trace_tokens or not kept.strip():
                short[segment.id] = Dropped(
                    segment.document, f"its trace has {length} tokens, fewer than min_trace_tokens = {self.min_trace_tokens}"
                )
                continue
            is_cut = len(kept) < len(trace.text)
            cut += is_cut
            rows.append(self._row(segment, kept, is_whole=not is_cut and trace.stopped_by == "end"))
        if not rows:
            raise DataError(
                f"data.{request.role}: none of the {len(traces)} traces of {request.source.path} has {self.min_trace_tokens} tokens or more. Lower "
                "min_trace_tokens, or look at the traces: temper traces."
            )
        left = {row["document"] for row in rows}
        gone = {drop.id: drop for drop in short.values() if drop.id not in left}
        facts = {
            **trace_health(traces, self.close_tag),
            "documents": len(left),
            "too_short": len(short),
            "cut": cut,
            "documents_dropped": len(gone) + len(collected.dropped),
            **({} if collected.path is None else {"file": str(collected.path)}),
            **({} if (note := closing_note(traces, self.until)) is None else {"note": note}),
        }
        return Made(rows, source, [*collected.dropped, *gone.values()], facts)

    def _row(self, segment: Segment, trace: str, *, is_whole: bool) -> dict[str, Any]:
        """Return a row in the columns of `own_columns`, with the columns of its document that say something else."""
        content = {"prompt", "response", "prefill", "text", "messages"}
        kept = {name: value for name, value in segment.row.items() if name not in content}
        row = {
            **kept,
            "id": segment.id,
            "document": segment.document,
            "segment": segment.number,
            "response": trace,
            "whole": is_whole,
        }
        if self.keep_context == "drop":
            return row | {"prompt": f"{self.trigger}\n" if self.trigger else "", "prefill": segment.opening}
        if "messages" in segment.given:
            *turns, last = segment.given["messages"]
            return row | {"prefill": segment.given["prefill"], "messages": [*turns, {**last, "content": trace}]}
        return row | segment.given

    def _filler(self, tokenizer: PreTrainedTokenizerBase, segment: Segment) -> str:
        """Return text of as many tokens as a trace is expected to have."""
        _, tokens = first_tokens(tokenizer, segment.text + " ", 1)
        text, _ = first_tokens(tokenizer, (segment.text + " ") * (1 + self._expected() // max(tokens, 1)), self._expected())
        return text

    def _expected(self) -> int:
        return self.max_trace_tokens

    def foreign(
        self,
        request: Request,
        segment: Segment,
        text: str,
        generator: str,
        *,
        seed: int | None = None,
        ended: str | None = None,
    ) -> Trace:
        """Return the trace in a text from elsewhere, without an opening tag of its own.

        Args:
            request: What is made.
            segment: What it is about.
            text: The trace, with or without tags.
            generator: Where it comes from.
            seed: Of the draws, where there were any.
            ended: How it stopped, where that is known; else it is taken to be whole.
        """
        begin = text.lstrip()
        text = begin.removeprefix(self.open_tag) if begin.startswith(self.open_tag) else text
        thought, close, _ = text.partition(self.close_tag)
        stopped_by: StoppedBy = "closed" if ended == "closed" else "length" if ended == "length" else "end"
        if close and self.until == "close":
            text, stopped_by = thought + close, "closed"
        _, tokens = first_tokens(request.tokenizer, text, 1)
        about = (segment.document, segment.number, segment.start, segment.end, segment.prompt)
        return Trace(*about, text, tokens, stopped_by, generator, seed)


def _check_tag(name: str, tag: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tag that the tokenizer cannot write; one of several ordinary tokens is as good as any.

    Raises:
        ModelError: It has no tokens, or one of them is unknown.
    """
    ids = tokenizer(tag, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    if not ids or (tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids):
        raise ModelError(
            f"{name} = {tag!r}: the tokenizer of this model cannot write it, so the model has no such tag. Set open_tag and close_tag to what it "
            "puts around a thought."
        )
