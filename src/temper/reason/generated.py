"""Traces that the model from before writes.

Source: Wang et al., Reasoning Model Unlearning (EMNLP 2025), project page and released generator: first 512 tokens of a text, the trigger
after it, greedy, 1,024 new tokens, no chat template; the first 100 tokens of a trace are trained on, without the text. Ours differs: traces
are written in batches, stop at the closing tag, and the prompt is taken off by tokens; N segments of a text are possible.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from pydantic import Field, model_validator

from temper.data.provider import Request
from temper.errors import DataError, ModelError
from temper.files import hash_json
from temper.reason.health import closing_note
from temper.reason.segments import Segment
from temper.reason.source import FORM, TraceSource
from temper.reason.tracefile import Trace, read_traces, stored_in_chunks

__all__ = ["GeneratedTraces"]

log = logging.getLogger(__name__)

_CHUNK: Final = 128
_ROOM_STEP: Final = 16


class GeneratedTraces(TraceSource):
    """Traces that the model from before writes.

    A row's trace depends on its own prompt alone, up to the rounding of a batch. Where the context leaves less room than
    `max_new_tokens`, a trace is cut there, at a multiple of 16 tokens.

    A model whose tags are ordinary text and never come, or that ends without closing, does not know them and is refused. One that is cut in
    every thought is not: the published generator ran to 1,024 tokens without a stop, and the first 100 are trained on. The share that
    closes stands in the line of progress, in the record of the run and in what `temper traces` prints, with a note where none does.
    """

    name: ClassVar[str] = "traces"
    needs_model: ClassVar[bool] = True
    max_new_tokens: int = Field(1024, ge=1, description="Where a trace is cut at the latest; what it keeps is in the file.")
    batch_size: int = Field(32, ge=1, le=_CHUNK, description="Prompts at a time.")
    temperature: float = Field(0.0, ge=0, description="0 takes the most likely token; above, tokens are drawn.")

    @model_validator(mode="after")
    def _can_be_long_enough(self) -> GeneratedTraces:
        self._reaches("max_new_tokens", self.max_new_tokens)
        return self

    def kept_at(self, request: Request, segments: Sequence[Segment]) -> Path | None:
        """Return the file of the traces: named by the model, the prompts as tokens, and how they are continued."""
        from temper.models.generation import prompt_ids

        if request.folder is None:
            return None
        ids = prompt_ids(request.tokenizer, [segment.prompt for segment in segments])
        asked = [[one.document, one.number, one.start, one.end, row] for one, row in zip(segments, ids, strict=True)]
        decoding = [self.max_new_tokens, self.temperature, self._seed(request), self.until, self.close_tag]
        key = {"form": FORM, "model": request.identity, "segments": asked, "decoding": decoding}
        return request.folder / f"{hash_json(key)[:40]}.jsonl"

    def _seed(self, request: Request) -> int | None:
        return request.seed if self.temperature > 0 else None

    def traces(self, request: Request, segments: Sequence[Segment], path: Path | None = None) -> list[Trace] | None:
        """Return what the model wrote, from the file where it is there."""
        from temper.models.generation import prompt_ids, prompt_keys

        ids = prompt_ids(request.tokenizer, [segment.prompt for segment in segments])
        where = f"data.{request.role}"
        self._chunks(request.context, segments, ids, where)  # refuses what has no room before a model is loaded
        if request.load is None:
            return read_traces(path, segments) if path is not None and path.exists() else None
        keys = prompt_keys(ids) if self.temperature > 0 else None
        load = request.load

        def write(places: Sequence[int]) -> list[Trace]:
            prompts = [ids[place] for place in places]
            names = None if keys is None else [keys[place] for place in places]
            return self._written(request, load(), [segments[place] for place in places], prompts, names)

        def chunks() -> list[list[int]]:
            tell(0)
            return self._chunks(_context_of(load()), segments, ids, where)

        def tell(count: int, note: str = "") -> None:
            if request.progress is not None and (count < len(segments) or note):  # the last word comes with the share that closes
                request.progress("traces", count, len(segments), note)

        def waiting() -> None:
            tell(0, "another run makes them")

        if path is None:
            made = {place: trace for chunk in chunks() for place, trace in zip(chunk, write(chunk), strict=True)}
            traces = [made[place] for place in range(len(segments))]
        else:
            traces = stored_in_chunks(path, segments, chunks, write, tell, waiting)
        self._check_closing(traces, request)
        closed = sum(self.close_tag in trace.text for trace in traces)
        tell(len(segments), f"{closed} closed" if closed or self.until == "end" else "none closed, all were cut")
        return traces

    def _expected(self) -> int:
        return min(self.max_trace_tokens, self.max_new_tokens)

    def _room(self, context: int | None, tokens: int) -> int:
        """Return how many tokens may follow a prompt; a function of the prompt alone, and of few values, so that batches stay full."""
        left = self.max_new_tokens if context is None else context - tokens
        if left >= self.max_new_tokens:
            return self.max_new_tokens
        return left if left < _ROOM_STEP else left - left % _ROOM_STEP

    def _chunks(
        self, context: int | None, segments: Sequence[Segment], ids: Sequence[Sequence[int]], where: str
    ) -> list[list[int]]:
        """Return the places of the prompts of each chunk: alike in room and near in length.

        Raises:
            DataError: A prompt fills the context.
        """
        alike: dict[int, list[int]] = {}
        for place in sorted(range(len(ids)), key=lambda place: (-len(ids[place]), place)):
            room = self._room(context, len(ids[place]))
            if room < 1:
                raise DataError(
                    f"{where} row {segments[place].document!r}: its prompt has {len(ids[place])} tokens, which leaves no room in the model's context "
                    f"of {context}. Set segment_tokens lower, or leave the row out."
                )
            alike.setdefault(room, []).append(place)
        return [
            places[start : start + _CHUNK]
            for _, places in sorted(alike.items(), reverse=True)
            for start in range(0, len(places), _CHUNK)
        ]

    def _written(
        self,
        request: Request,
        model: Any,
        segments: Sequence[Segment],
        prompts: Sequence[Sequence[int]],
        names: Sequence[tuple[str, int]] | None,
    ) -> list[Trace]:
        """Return the traces of a chunk, whose prompts have the same room."""
        from temper.models.generation import continuations

        found = continuations(
            model,
            request.tokenizer,
            prompts,
            max_new_tokens=self._room(_context_of(model), len(prompts[0])),
            batch_size=self.batch_size,
            stop=[self.close_tag] if self.until == "close" else [],
            temperature=self.temperature,
            seed=request.seed,
            keys=names,
        )
        generator = request.identity or str(getattr(model, "name_or_path", "") or type(model).__name__)
        return [
            Trace(
                segment.document,
                segment.number,
                segment.start,
                segment.end,
                segment.prompt,
                one.text + one.stop,
                one.tokens,
                "closed" if one.stopped_by == "stop" else one.stopped_by,
                generator,
                self._seed(request),
            )
            for segment, one in zip(segments, found, strict=True)
        ]

    def _check_closing(self, traces: Sequence[Trace], request: Request) -> None:
        """Refuse traces of a model that does not know the tags: none closes, and some end, or the tag is no token of its own.

        Raises:
            ModelError: They are so.
        """
        if self.until == "end" or any(trace.stopped_by == "closed" for trace in traces):
            return
        ended = sum(trace.stopped_by == "end" for trace in traces)
        pieces = len(request.tokenizer(self.close_tag, add_special_tokens=False, return_attention_mask=False)["input_ids"])
        if ended or pieces > 1:
            reason = f"{ended} end without it" if ended else f"it is {pieces} ordinary tokens to this tokenizer"
            raise ModelError(
                f"data.{request.role}: none of the {len(traces)} traces has the closing tag {self.close_tag!r} ({reason}), so this model does not seem "
                "to use the tags. Set open_tag and close_tag to its own, set until=end to take its words as they are, or raise max_new_tokens "
                f"(it is {self.max_new_tokens})."
            )
        log.warning("data.%s: %s", request.role, closing_note(traces, self.until))


def _context_of(model: Any) -> int | None:
    """Return how many tokens a model can read; None where its configuration does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)
