"""The choices that a row offers, and what a model gives to each of them.

A row offers choices in one of two ways:

| columns | choices | the right one |
| --- | --- | --- |
| `choices` and `answer` | all responses that are possible | named by `answer`: its text, its place (0 is the first), or its letter |
| `perturbed` | the row's own response and these wrong ones | the row's own response |

Each choice is put behind the row's prompt, and gets the sum of log p over its tokens, without an end token, as the harness does it.
Letters are choices like any others: a prompt that shows the options and `choices: [" A", " B", " C", " D"]` is the form of WMDP and MMLU.

Source: the loglikelihood requests of lm-evaluation-harness.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from temper.assess.continuing import scored_after
from temper.assess.metrics.thoughts import CLOSE
from temper.assess.passes import Entry
from temper.errors import DataError
from temper.models.load import pad_id_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from temper.data import Encoded, Item

__all__ = [
    "MIXED",
    "NO_ANSWER",
    "NO_CHOICES",
    "TOO_LONG",
    "ChoiceScores",
    "Choices",
    "RightAnswer",
    "choice_entries",
    "choice_sets",
    "choices_of",
    "listed_options",
    "option_set",
    "right_answer",
    "scores_of",
    "stated_answer",
]

NO_CHOICES: Final = "it offers no choices"
NO_ANSWER: Final = "it has no answer column"
TOO_LONG: Final = "a choice does not fit into the model's context"
MIXED: Final = "its right answer thinks and its wrong ones do not, so their likelihoods do not compare"
_LISTED: Final = re.compile(r"(?:^|\n)[ \t]*\(?([A-Z])[).:][ \t]*(\S[^\n]*)")


@dataclass(frozen=True)
class Choices:
    """What a row offers.

    Attributes:
        texts: At least two responses.
        right: Place of the right one.
    """

    texts: tuple[str, ...]
    right: int


@dataclass(frozen=True, eq=False)
class ChoiceScores:
    """What one model gives to the K choices of one row.

    Attributes:
        sums: (K,), sum of log p over the tokens of each.
        characters: (K,), characters of each, outer blanks apart.
        right: Place of the right one.
    """

    sums: NDArray[np.float64]
    characters: NDArray[np.int64]
    right: int


def choices_of(item: Item, where: str = "evaluate.data") -> Choices | str:
    """Return the choices of a row, or in words why it offers none.

    Args:
        item: The row.
        where: Names its role in messages.

    Raises:
        DataError: Choices are no list of texts, or the answer is not among them.

    Example:
        >>> from temper.data import Item
        >>> row = {"choices": [" A", " B"], "answer": 1}
        >>> choices_of(Item("a", (1, 2), (-100, 2), row, "Q", " B"))
        Choices(texts=(' A', ' B'), right=1)
    """
    row = item.row
    if not item.prompt:
        return "it has no prompt"
    if row.get("choices") is not None:
        texts = _texts(row["choices"], "choices", item, where)
        if len(texts) < 2:
            return "it has one choice only" if texts else NO_CHOICES
        return Choices(texts, _right(texts, row.get("answer", item.response), item, where))
    if row.get("perturbed") is None:
        return NO_CHOICES
    wrong = [text for text in _texts(row["perturbed"], "perturbed", item, where) if text.strip() != item.response.strip()]
    if not wrong:
        return "it has one choice only"
    if len({CLOSE in text for text in (item.response, *wrong)}) > 1:
        return MIXED
    return Choices((item.response, *wrong), 0)


def _texts(value: Any, column: str, item: Item, where: str) -> tuple[str, ...]:
    good = isinstance(value, list | tuple) and all(isinstance(text, str) and text.strip() for text in value)
    if not good:
        raise DataError(
            f"{where} row {item.id!r}: column {column!r} holds {value!r:.60}, expected a list of texts that are not empty. "
            "Leave the metrics that read it (choice_accuracy, final_answer, trace_category) out of evaluate.metrics if it means something else."
        )
    return tuple(value)


def _right(texts: Sequence[str], answer: Any, item: Item, where: str) -> int:
    if isinstance(answer, int) and not isinstance(answer, bool):
        if 0 <= answer < len(texts):
            return answer
        raise DataError(f"{where} row {item.id!r}: answer = {answer}, but its choices have the places 0 to {len(texts) - 1}")
    if isinstance(answer, str):
        stripped = [text.strip() for text in texts]
        if answer.strip() in stripped:
            return stripped.index(answer.strip())
        place = ord(answer.strip()) - ord("A") if len(answer.strip()) == 1 else -1
        if 0 <= place < len(texts):
            return place
    raise DataError(
        f"{where} row {item.id!r}: answer {answer!r:.60} is not among its {len(texts)} choices ({', '.join(texts)!s:.120}). Give the text of "
        "one of them, or its place."
    )


def option_set(item: Item, where: str = "evaluate.data") -> Choices | None:
    """Return the options that a row's question shows, from `options`, else `choices`; None where it shows none.

    Raises:
        DataError: As `choices_of`.
    """
    column = "options" if item.row.get("options") is not None else "choices"
    if item.row.get(column) is None:
        return None
    texts = _texts(item.row[column], column, item, where)
    if not texts:
        return None
    return Choices(texts, _right(texts, item.row.get("answer", item.response), item, where))


def listed_options(question: str) -> list[str]:
    r"""Return the options that a question lists by letter, a line each, from A on.

    Example:
        >>> listed_options("Which town?\nA. Rome\nB. Bern\nAnswer:")
        ['Rome', 'Bern']
    """
    found = [(match[1], match[2].strip()) for match in _LISTED.finditer(question)]
    in_order = [text for place, (letter, text) in enumerate(found) if letter == chr(ord("A") + place)]
    return in_order if len(in_order) == len(found) else []


@dataclass(frozen=True)
class RightAnswer:
    """The right answer of a row as a text, and the texts of its options.

    Attributes:
        answer: Without outer blanks.
        options: The right one among them; empty where the row shows none.
        right: Place of the right one; None where the row shows none.
    """

    answer: str
    options: tuple[str, ...] = ()
    right: int | None = None


def right_answer(item: Item, where: str = "evaluate.data") -> RightAnswer | str:
    """Return the right answer and the shown options of a row, or in words why they cannot be told.

    The answer is given by its text, or by its place or letter among `options`, else `choices`, else what the question lists by letter.

    Raises:
        DataError: As `choices_of`.

    Example:
        >>> from temper.data import Item
        >>> row = {"options": ["Rome", "Bern"], "answer": 1}
        >>> right_answer(Item("a", (1, 2), (-100, 2), row, "Q", " B"))
        RightAnswer(answer='Bern', options=('Rome', 'Bern'), right=1)
    """
    shown = option_set(item, where)
    listed = listed_options(item.question)
    if shown is not None:
        options = tuple(text.strip() for text in shown.texts)
        if all(_is_letter(text) for text in options):  # the letters alone are responses; the question has the texts
            if len(listed) != len(options):
                return "its choices are letters, and its question lists no options; give them in the column options"
            options = tuple(listed)
        return RightAnswer(options[shown.right], options, shown.right)
    answer = item.row.get("answer")
    if isinstance(answer, int) and not isinstance(answer, bool):
        return "its answer is a number and no text, and it has neither options nor choices"
    if not isinstance(answer, str) or not answer.strip():
        return NO_ANSWER
    answer = answer.strip()
    if _is_letter(answer) and 0 <= (place := ord(answer.upper()) - ord("A")) < len(listed):
        return RightAnswer(listed[place], tuple(listed), place)
    return RightAnswer(answer, tuple(listed), listed.index(answer) if answer in listed else None)


def stated_answer(item: Item, where: str = "evaluate.data") -> RightAnswer | str:
    """Return the right answer of a row as a text; its options are looked at only where the answer is a place or a letter.

    Raises:
        DataError: As `choices_of`.
    """
    answer = item.row.get("answer")
    if answer is None:
        return NO_ANSWER
    return RightAnswer(answer.strip()) if isinstance(answer, str) and len(answer.strip()) > 1 else right_answer(item, where)


def _is_letter(text: str) -> bool:
    return len(text) == 1 and text.isalpha()


def choice_sets(role: str, encoded: Encoded) -> list[Choices | str]:
    """Return the choices of every row of a role, or why a row has none.

    Raises:
        DataError: As `choices_of`.
    """
    return [choices_of(item, f"evaluate.data.{role}") for item in encoded.items]


def choice_entries(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    sets: Sequence[Choices | str],
    *,
    limit: int,
    told: Callable[[int], None],
) -> list[Entry]:
    """Return for each row the sums of log p of its choices, None for a row without choices or with one that is too long.

    All choices of all rows are one pass. Choices of a row that differ in their last token alone, as letters and other single tokens do,
    are read off the same row of it: what the model reads to predict them is the same.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        items: The rows.
        sets: From `choice_sets`.
        limit: Tokens that the model can read.
        told: Called with a number of choices after each batch.
    """
    from temper.assess.records import token_log_probs

    pairs = [(place, text) for place, found in enumerate(sets) if not isinstance(found, str) for text in found.texts]
    rows = scored_after(tokenizer, [items[place] for place, _ in pairs], [""] * len(pairs), [text for _, text in pairs])
    long = {place for (place, _), row in zip(pairs, rows, strict=True) if len(row.input_ids) > limit}
    shared: dict[tuple[int, tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for number, ((place, _), row) in enumerate(zip(pairs, rows, strict=True)):
        if place not in long:
            shared.setdefault((place, row.input_ids[:-1], row.labels[:-1]), []).append(number)
    groups = list(shared.values())
    before = 0

    def count(done: int) -> None:
        nonlocal before
        told(done - before)
        before = done

    scored = token_log_probs(
        model,
        [rows[numbers[0]] for numbers in groups],
        pad_id=pad_id_of(tokenizer),
        others=[[rows[number].input_ids[-1] for number in numbers[1:]] for numbers in groups],
        progress=count,
    )
    told(len(pairs) - before)
    sums: dict[int, float] = {}
    for numbers, logp in zip(groups, scored, strict=True):
        own = len(logp) - len(numbers) + 1
        common = float(logp[: own - 1].sum(dtype=np.float64))
        for number, last in zip(numbers, logp[own - 1 :], strict=True):
            sums[number] = common + float(last)
    entries: list[list[float]] = [[] for _ in items]
    for number, (place, _) in enumerate(pairs):
        if number in sums:
            entries[place].append(sums[number])
    return [entry or None for entry in entries]


def scores_of(entry: Entry, found: Choices | str) -> ChoiceScores | None:
    """Return the scores of a row from its entry in a pass."""
    if isinstance(found, str) or not isinstance(entry, list):
        return None
    characters = np.array([len(text.strip()) for text in found.texts], dtype=np.int64)
    return ChoiceScores(np.array(entry, dtype=np.float64), characters, found.right)
