"""The tokenisation contract: from rows to ids and labels, the same way everywhere.

1. The full text is rendered prompt + prefill + response, by exact concatenation. A chat template renders the prompt where the tokenizer
   has one (and writes its own special tokens); else `plain_format` does and the tokenizer adds its own.
2. Labels are -100 on prompt, prefill and index 0. The prompt ends where ids(prompt) and ids(prompt + response) stop being
   equal: a token that spans the border belongs to the response.
3. One end token ends the row, and it is scored: what ends an assistant's turn in the chat template, else the tokenizer's own
   end token. A row that was cut has none. Text of a row that spells a special token becomes that token, as the tokenizer
   does it.
   A row that was cut elsewhere, as the column `whole` says, has none either.
4. A row longer than the limit is an error, cut, or dropped, as the recipe says; a row with nothing to score is dropped.
   What was dropped is counted, never scored 0.

Attention masks are made from true lengths when rows are padded (`collate`), never from `ids != pad`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from temper.data.origin import check_named, document_of, is_whole
from temper.errors import DataError, nearest
from temper.files import hash_json
from temper.recipe import DataSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Dropped", "Encoded", "Item", "encode", "join", "longest", "prompt_text"]

_IGNORED = -100


@dataclass(frozen=True, slots=True)
class Item:
    """One row ready for a model.

    Attributes:
        id: Name of the row.
        input_ids: Token ids.
        labels: The id where a token is scored, else -100.
        row: All original columns.
        prompt: Rendered prompt and prefill: what a generation starts from. Empty for a text row.
        response: The scored text, without the end token.
        question: The prompt as the row has it, before any template: what rows are compared by.
        prompt_ids: The ids of `prompt`, special tokens included, as they were tokenised for training.
        document: Name of the document the row was cut from; the row's own where it was cut from none.
        topic: What its source is about.
    """

    id: str
    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    row: dict[str, Any] = field(compare=False)
    prompt: str
    response: str
    question: str = ""
    prompt_ids: tuple[int, ...] = ()
    document: str = ""
    topic: str = "default"


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that was left out, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Encoded:
    """The rows of a role, from one or more sources.

    Attributes:
        items: The rows.
        dropped: What was left out.
        source_of: For each item the number of its source.
        source_weights: For each source its share of the draws.
        truncated: How many rows were cut.
    """

    items: list[Item]
    dropped: list[Dropped]
    source_of: list[int]
    source_weights: list[float]
    truncated: int = 0

    @property
    def content_hash(self) -> str:
        """Return one hash over ids, tokens and labels of all items."""
        return hash_json([[item.id, list(item.input_ids), list(item.labels)] for item in self.items])


def join(parts: Sequence[Encoded]) -> Encoded:
    """Return the rows of several sources as one, in their order."""
    items: list[Item] = []
    dropped: list[Dropped] = []
    source_of: list[int] = []
    weights: list[float] = []
    for part in parts:
        source_of += [number + len(weights) for number in part.source_of]
        items += part.items
        dropped += part.dropped
        weights += part.source_weights
    return Encoded(items, dropped, source_of, weights, sum(part.truncated for part in parts))


def longest(encoded: Encoded) -> int:
    """Return the number of tokens of the longest row."""
    return max(len(item.input_ids) for item in encoded.items)


def _column(row: dict[str, Any], name: str, number: int, where: str) -> str:
    if name not in row:
        columns = [column for column in row if column != "id"]
        raise DataError(
            f"{where} row {number}: has no column {name!r}{nearest(name, columns)}. Its columns: {', '.join(columns)}."
        )
    value = row[name]
    if not isinstance(value, str):
        raise DataError(f"{where} row {number}: column {name!r} holds {value!r:.40} ({type(value).__name__}), expected text")
    return value


def _uses_chat(source: DataSource, tokenizer: PreTrainedTokenizerBase, where: str) -> bool:
    if source.template == "chat" and not tokenizer.chat_template:
        raise DataError(f"{where}: template is chat, but the tokenizer has no chat template. Set template to plain.")
    return source.template != "plain" and bool(tokenizer.chat_template)


def _messages(row: dict[str, Any], source: DataSource, number: int, where: str) -> tuple[list[dict[str, str]], str]:
    """Return the turns before the last one, and the last one's text, which must be the assistant's."""
    turns = row[source.messages]
    good = (
        isinstance(turns, list)
        and turns
        and all(
            isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
            for turn in turns
        )
    )
    if not good:
        raise DataError(f"{where} row {number}: column {source.messages!r} must be a list of turns with role and content")
    if turns[-1]["role"] != "assistant":
        raise DataError(
            f"{where} row {number}: the last turn is {turns[-1]['role']!r}, expected assistant, whose words are scored"
        )
    before = [{"role": turn["role"], "content": turn["content"]} for turn in turns[:-1]]
    return before, turns[-1]["content"]


@dataclass(frozen=True)
class _Texts:
    """A row as text: what is given, what is scored, and whether special tokens are in it already."""

    prompt: str
    response: str
    is_text: bool
    has_specials: bool
    is_chat: bool = False
    question: str = ""


def _texts(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, source: DataSource, number: int, where: str) -> _Texts:
    chat = _uses_chat(source, tokenizer, where)
    if source.messages in row:
        before, response = _messages(row, source, number, where)
        if not chat:
            raise DataError(
                f"{where} row {number}: holds messages, which need a tokenizer with a chat template (and template not plain)"
            )
        turns = before
    elif source.prompt in row or source.text not in row:
        prompt, response = _column(row, source.prompt, number, where), _column(row, source.response, number, where)
        turns = [{"role": "user", "content": prompt}]
    else:
        return _Texts("", _column(row, source.text, number, where), True, False)
    prefill = _column(row, source.prefill, number, where) if row.get(source.prefill) is not None else ""
    if chat:
        system = [{"role": "system", "content": source.system}] if source.system is not None else []
        try:
            rendered = tokenizer.apply_chat_template([*system, *turns], tokenize=False, add_generation_prompt=True)
        except Exception as error:
            # a template is a program of the tokenizer's author, and raises what it likes
            raise DataError(
                f"{where} row {number}: the chat template refused this row ({type(error).__name__}: {error})"
            ) from error
    else:
        rendered = source.plain_format.replace("{prompt}", turns[0]["content"])
    begin = tokenizer.bos_token
    has_specials = chat or (begin is not None and str(rendered).startswith(begin))
    return _Texts(str(rendered) + prefill, response, False, has_specials, chat, turns[-1]["content"] if turns else "")


def prompt_text(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, source: DataSource) -> str:
    """Return what a generation for this row starts from: rendered prompt and prefill; empty for a text row."""
    return _texts(row, tokenizer, source, 1, source.path).prompt


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], specials: bool) -> list[list[int]]:
    return (
        list(tokenizer(texts, add_special_tokens=specials, return_attention_mask=False, verbose=False)["input_ids"])
        if texts
        else []
    )


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    length = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        length += 1
    return length


def _without_end(ids: list[int], ends: set[int]) -> list[int]:
    """Drop end tokens that the tokenizer or the text put at the end, so that exactly one can be added."""
    while len(ids) > 1 and ids[-1] in ends:
        ids = ids[:-1]
    return ids


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token that ends an assistant's turn in the chat template (not always the tokenizer's end token), or None."""
    marker = "temper-marks-this-turn"
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": marker}]
    try:
        rendered = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except Exception:  # noqa: BLE001 - a template is a program of its author; one that refuses this says nothing of its end
        return None
    _, found, after = rendered.partition(marker)
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if found and after else []
    specials = set(tokenizer.all_special_ids)
    return next((token for token in ids if token in specials), None)


def encode(
    rows: Sequence[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    source: DataSource,
    *,
    max_length: int,
    overflow: Literal["error", "truncate", "drop"],
    where: str,
) -> Encoded:
    """Return rows as items that keep the contract of this module.

    Args:
        rows: With an `id` each.
        tokenizer: With or without a chat template, a pad token, a begin or an end token.
        source: Which columns mean what, and how a prompt is rendered.
        max_length: Tokens a row may have.
        overflow: What happens to longer ones.
        where: Names the source in messages.

    Raises:
        DataError: A column is missing or holds no text, a row is too long (overflow error), or nothing is left to score.
    """
    check_named(rows, source, where)
    texts = [_texts(row, tokenizer, source, number, where) for number, row in enumerate(rows, start=1)]
    last = tokenizer.eos_token_id
    turn_end = _end_of_turn(tokenizer) if any(text.is_chat for text in texts) else None
    ends = {token for token in (last, turn_end) if token is not None}
    encoded: list[tuple[list[int], int, list[int]]] = [([], 0, [])] * len(texts)
    for specials in (True, False):
        chosen = [number for number, text in enumerate(texts) if text.has_specials != specials]
        given = _ids(tokenizer, [texts[number].prompt for number in chosen], specials)
        full = _ids(tokenizer, [texts[number].prompt + texts[number].response for number in chosen], specials)
        for number, prompt_ids, full_ids in zip(chosen, given, full, strict=True):
            prompt_ids = _without_end(prompt_ids, ends) if specials else prompt_ids
            end = turn_end if texts[number].is_chat and turn_end is not None else last
            if end is not None:
                full_ids = [
                    *_without_end(full_ids, ends),
                    *([end] if is_whole(rows[number], source, where) else []),
                ]
            if texts[number].is_text:
                begin = tokenizer.bos_token_id
                full_ids = full_ids if begin is None or full_ids[:1] == [begin] else [begin, *full_ids]
                prompt_ids = []
            encoded[number] = (full_ids, max(1, _common_prefix(prompt_ids, full_ids)), prompt_ids)
    items: list[Item] = []
    dropped: list[Dropped] = []
    truncated = 0
    for row, text, (ids, start, prompt_ids) in zip(rows, texts, encoded, strict=True):
        if len(ids) > max_length:
            if overflow == "error":
                raise DataError(
                    f"{where} row {row['id']!r}: {len(ids)} tokens, but at most {max_length} are allowed. Raise train.max_length (up to the "
                    "model's context), or set train.overflow to truncate or drop."
                )
            if overflow == "drop":
                dropped.append(Dropped(row["id"], f"{len(ids)} tokens, more than {max_length}"))
                continue
            truncated += 1
            ids = ids[:max_length]
        scored = ids[start:]
        if not scored or (not text.response and all(token in ends for token in scored)):
            dropped.append(Dropped(row["id"], "no token is left to score"))
            continue
        labels = (*([_IGNORED] * start), *scored)
        items.append(
            Item(
                row["id"],
                tuple(ids),
                labels,
                row,
                text.prompt,
                text.response,
                text.question,
                tuple(prompt_ids),
                document=document_of(row, source, where),
                topic=source.topic,
            )
        )
    if not items:
        reasons = sorted({item.reason for item in dropped})
        raise DataError(f"{where}: none of its {len(rows)} rows can be used ({'; '.join(reasons[:3])})")
    return Encoded(items, dropped, [0] * len(items), [source.weight], truncated)
