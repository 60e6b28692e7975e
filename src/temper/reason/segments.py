"""What a trace is asked about: segments of documents, or whole questions, each with the prompt that opens a thought.

A row with a text column is a document. It is cut into segments of tokens, and a prompt is

    segment, line break, trigger, line break, opening tag          (trigger after; before: the first two change places)

without a chat template, as in the released script of R2MU. A row with a prompt or a messages column is a question: it is not cut, the
trigger becomes a line of its last user turn, the chat template renders it as for training, and the opening tag follows, unless the
template has put it there already. A prefill column is not read: a trace opens its own thought.

Segments are cut at characters where tokens end, so the segments of a document, put together without overlap, are its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from temper.data.tokenise import Dropped, prompt_text
from temper.errors import DataError, ModelError
from temper.recipe import DataSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from temper.reason.source import TraceSource

__all__ = ["Segment", "first_tokens", "own_columns", "segments_of", "spans", "token_borders"]


@dataclass(frozen=True, slots=True)
class Segment:
    """What one trace is about.

    Attributes:
        document: Id of the row it was cut from.
        number: Its place among the segments of that row, from 0.
        start: Its first token in the document.
        end: The token after its last.
        text: Its words; the whole question where the row is one.
        prompt: The whole text that the model continues; it ends inside the thought.
        opening: What opens a thought: the opening tag and what the chat template puts after it.
        given: The columns that give `prompt` again when they are encoded under `source`.
        source: How `given` is encoded.
        row: The row it was cut from.
    """

    document: str
    number: int
    start: int
    end: int
    text: str
    prompt: str
    opening: str
    given: dict[str, Any] = field(compare=False)
    source: DataSource = field(compare=False)
    row: dict[str, Any] = field(compare=False)

    @property
    def id(self) -> str:
        """Return the name of the row that is made of it."""
        return f"{self.document}#{self.number}"


def token_borders(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the characters at which the tokens of a text end, from 0 to its length; one more than there are tokens.

    Raises:
        ModelError: The tokenizer does not say where in a text its tokens lie.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            "the tokenizer does not say where in a text its tokens lie (it is a slow one), so documents cannot be cut. Convert it to a fast "
            "tokenizer (tokenizer.json)."
        )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False)
    offsets = encoded["offset_mapping"]
    borders = [0]
    for (_, end), (next_start, _) in zip(offsets, [*offsets, (len(text), len(text))][1:], strict=True):
        borders.append(end if end <= next_start else borders[-1])  # several tokens can share a character: it is not cut
    if offsets:
        borders[-1] = len(text)
    return borders


def first_tokens(tokenizer: PreTrainedTokenizerBase, text: str, limit: int) -> tuple[str, int]:
    """Return the text up to the given number of its tokens, cut where a character ends, and how many tokens the whole text has."""
    borders = token_borders(tokenizer, text)
    count = len(borders) - 1
    return (text if count <= limit else text[: borders[limit]]), count


def spans(tokens: int, count: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Return at most `count` segments of at most `size` tokens, each sharing `overlap` tokens with the one before; none holds nothing new.

    Example:
        >>> spans(10, 3, 4, 1)
        [(0, 4), (3, 7), (6, 10)]
        >>> spans(5, 3, 4, 1)
        [(0, 4), (3, 5)]
    """
    found: list[tuple[int, int]] = []
    while len(found) < count and (not found or found[-1][1] < tokens):
        start = found[-1][1] - overlap if found else 0
        found.append((start, min(start + size, tokens)))
    return found


def own_columns(source: DataSource) -> DataSource:
    """Return a source whose columns have their usual names: those that made rows have."""
    names = ("prompt", "response", "prefill", "text", "messages", "id", "document", "whole")
    return source.model_copy(update={name: name for name in names})


def segments_of(
    settings: TraceSource, rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, source: DataSource, where: str
) -> tuple[list[Segment], list[Dropped]]:
    """Return what traces are asked about, in the order of the rows, and the rows that hold nothing.

    Raises:
        DataError: A row has none of the columns, or is not of the form that its column wants; or no row is left.
    """
    segments: list[Segment] = []
    dropped: list[Dropped] = []
    for row in rows:
        if source.messages in row:
            found = _asked(settings, row, tokenizer, source, _turns(row, source, where), where)
        elif source.prompt in row:
            turns = [{"role": "user", "content": _text(row, source.prompt, where)}]
            found = _asked(settings, row, tokenizer, source, turns, where)
        elif source.text in row:
            found = _cut(settings, row, tokenizer, source, where)
        else:
            raise DataError(
                f"{where} row {row['id']!r}: has no column {source.text!r}, {source.prompt!r} or {source.messages!r}. Its columns: "
                f"{', '.join(name for name in row if name != 'id')}."
            )
        segments += found
        if not found:
            dropped.append(Dropped(row["id"], "holds no text"))
    if not segments:
        raise DataError(f"{where}: none of its {len(rows)} rows holds text")
    return segments, dropped


def _text(row: dict[str, Any], name: str, where: str) -> str:
    value = row[name]
    if not isinstance(value, str):
        raise DataError(f"{where} row {row['id']!r}: column {name!r} holds {value!r:.40} ({type(value).__name__}), expected text")
    return value


def _with_trigger(settings: TraceSource, text: str) -> str:
    if not settings.trigger:
        return text
    return f"{text}\n{settings.trigger}" if settings.trigger_position == "after" else f"{settings.trigger}\n{text}"


def _cut(
    settings: TraceSource, row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, source: DataSource, where: str
) -> list[Segment]:
    """Return the segments of a document; those of blanks alone are left out."""
    text = _text(row, source.text, where)
    borders = token_borders(tokenizer, text)
    plain = own_columns(source).model_copy(update={"template": "plain", "plain_format": "{prompt}", "system": None})
    segments = []
    parts = spans(len(borders) - 1, settings.segments_per_doc, settings.segment_tokens, settings.overlap)
    for number, (start, end) in enumerate(parts):
        words = text[borders[start] : borders[end]]
        if words.strip():
            given = {"prompt": _with_trigger(settings, words) + "\n", "prefill": settings.open_tag}
            prompt = given["prompt"] + given["prefill"]
            segments.append(Segment(row["id"], number, start, end, words, prompt, settings.open_tag, given, plain, row))
    return segments


def _turns(row: dict[str, Any], source: DataSource, where: str) -> list[dict[str, str]]:
    """Return the turns of a conversation up to the last question."""
    turns = row[source.messages]
    good = isinstance(turns, list) and all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str) for turn in turns
    )
    if not good:
        raise DataError(f"{where} row {row['id']!r}: column {source.messages!r} must be a list of turns with role and content")
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    if turns and turns[-1]["role"] == "assistant":
        turns = turns[:-1]
    if not turns or turns[-1]["role"] != "user":
        raise DataError(
            f"{where} row {row['id']!r}: column {source.messages!r} holds no question of a user that could be answered"
        )
    return turns


def _asked(
    settings: TraceSource,
    row: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    source: DataSource,
    turns: list[dict[str, str]],
    where: str,
) -> list[Segment]:
    """Return the one segment of a question, rendered as for training."""
    question = turns[-1]["content"]
    if not question.strip():
        return []
    if settings.segments_per_doc > 1:
        raise DataError(
            f"{where} row {row['id']!r}: is a question, which is not cut into segments, but segments_per_doc = {settings.segments_per_doc}. Set it to "
            "1, or give documents in a text column."
        )
    asked = _with_trigger(settings, question)
    own = own_columns(source)
    given: dict[str, Any] = {"prompt": asked}
    if source.messages in row:
        given = {"messages": [*turns[:-1], {"role": "user", "content": asked}, {"role": "assistant", "content": ""}]}
    try:
        rendered = prompt_text({"id": row["id"], "response": "", **given}, tokenizer, own)
    except DataError as error:
        raise DataError(f"{where} row {row['id']!r}: {error}") from error
    is_opened = rendered.rstrip().endswith(settings.open_tag)
    opening = settings.open_tag + (rendered[len(rendered.rstrip()) :] if is_opened else "")
    given["prefill"] = "" if is_opened else opening
    tokens = len(tokenizer(question, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"])
    return [Segment(row["id"], 0, 0, tokens, question, rendered + given["prefill"], opening, given, own, row)]
