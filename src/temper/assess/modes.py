"""The decoding modes of an assessment: thinking rows asked again with a forced thought, and the metrics of answers on what follows.

Results carry the mode behind an @: `answer_accuracy@zero_thinking`. A role has them if some of its reference answers think; rows that do
not think are not asked again. The text that metrics read is the forced thought and what the model says after it.

Only metrics with ``in_modes = True`` are taken: answer_accuracy, final_answer, and of trace_leak whether what follows the forced thought states
the fact. There is no trace of the model's own in a mode, so neither its health nor its category is measured, and no judge is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from temper.assess.continuing import prompts_with
from temper.assess.decoding.mode import Decoding, shown
from temper.assess.measure import Answers, Measure, Metric, PerItem
from temper.assess.metrics.thoughts import thinks
from temper.assess.passes import Entry
from temper.models.generation import generate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from temper.data import Encoded, Item
    from temper.recipe import EvaluateSection

__all__ = ["Asked", "ask", "asked_of", "forced_prompts", "in_mode", "is_in_modes", "modes_of", "thinking_places"]


@dataclass(frozen=True, eq=False)
class Asked:
    """The answers of one role in one mode.

    Attributes:
        places: Which of the role's rows were asked.
        answers: Of those rows.
    """

    places: Sequence[int]
    answers: Answers


def modes_of(settings: EvaluateSection) -> list[Decoding]:
    """Return the decoding modes of an evaluation."""
    return cast("list[Decoding]", list(settings.decoding))


def thinking_places(encoded: Encoded) -> list[int]:
    """Return which rows of a role are asked in a mode: those with a prompt whose reference answers think."""
    return [place for place, item in enumerate(encoded.items) if item.prompt and thinks(item)]


def forced_prompts(
    mode: Decoding, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]
) -> tuple[list[str], list[tuple[int, ...]]]:
    """Return for each item the forced text, and the ids of its prompt with that text."""
    forced = [mode.forced(item.prompt, item.response) for item in items]
    return forced, prompts_with(tokenizer, items, forced)


def ask(
    mode: Decoding, model: Any, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], settings: EvaluateSection
) -> list[Entry]:
    """Return the thought and the continuation of each item in a mode."""
    forced, ids = forced_prompts(mode, tokenizer, items)
    replies = generate(model, tokenizer, ids, max_new_tokens=settings.max_new_tokens, batch_size=settings.batch_size)
    return [shown(text) + reply for text, reply in zip(forced, replies, strict=True)]


def asked_of(mode: Decoding, answers: Answers, places: Sequence[int], texts: Sequence[Entry]) -> Asked:
    """Return the answers of a mode beside the role's own."""
    items = [answers.items[place] for place in places]
    return Asked(
        places,
        Answers(
            items,
            [answers.records[place] for place in places],
            [text if isinstance(text, str) else None for text in texts],
            forced=[len(shown(mode.forced(item.prompt, item.response))) for item in items],
        ),
    )


def is_in_modes(metric: Metric) -> bool:
    """Return whether a metric is taken in decoding modes."""
    return metric.needs == "generations" and bool(getattr(metric, "in_modes", False))


def in_mode(name: str, asked: Mapping[str, Asked], metrics: Sequence[Metric]) -> list[Measure]:
    """Return the measures of the metrics of answers in a mode; their places are those of the role's rows.

    Args:
        name: Of the mode.
        asked: By role.
        metrics: All metrics of the assessment; the others are passed over.
    """
    answers = {role: given.answers for role, given in asked.items()}
    found = [measure for metric in metrics if is_in_modes(metric) for measure in metric.compute(answers)]
    renamed: list[Measure] = []
    for measure in found:
        named = f"{measure.metric}@{name}"
        if isinstance(measure, PerItem):
            places = np.array(asked[measure.role].places, dtype=np.int64)[measure.places]
            renamed.append(replace(measure, metric=named, places=places))
        else:
            renamed.append(replace(measure, metric=named))
    return renamed
