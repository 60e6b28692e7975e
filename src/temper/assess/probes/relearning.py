"""Relearning: does a little fine-tuning on some of the forgotten facts bring back the others?

    half the groups G_1 of the forget rows train, the other half G_2 is asked:   relearning.after - relearning.before

| result (role forget, rows of G_2) | share of answers that are right |
| --- | --- |
| relearning.before | before the fine-tuning, strictly |
| relearning.after | after it |
| relearning.before_lenient, .after_lenient | the same read leniently, see `answer_accuracy` |

No fact of G_2 is among the training rows, so a model that lost them cannot regain them: what comes back was hidden and not forgotten. The
gold model, fine-tuned alike, shows what the format of answers alone gives. A group is what its rows have in common, by default the person
they are about; which groups train is drawn by the run's seed. Training rows come from `data`, e.g. in other words than the evaluated ones,
or else are the evaluation rows of G_1 themselves.

All weights train: AdamW at a constant rate, the mean -log p of the answers' tokens, gradients clipped to norm 1. They stay in memory and
are thrown away.

Source: Hu et al., Jogging the Memory of Unlearned Models (2024); Lynch et al., Eight Methods (2024); the sizes are our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from pydantic import Field, field_validator

from temper.assess.measure import Absent, Answers, Measure, per_item
from temper.assess.metrics.answer_accuracy import reading
from temper.assess.packs import items_hash
from temper.assess.probes.probe import Probe, Request, Setting
from temper.draws import generator
from temper.errors import DataError
from temper.models.load import pad_id_of
from temper.recipe import DataSource

if TYPE_CHECKING:
    from temper.data import Encoded, Item

__all__ = ["Relearning", "fine_tune"]

_ROLE: Final = "forget"
_NAMES: Final = ("relearning.before", "relearning.before_lenient", "relearning.after", "relearning.after_lenient")
_CLIP: Final = 1.0


class Relearning(Probe):
    """Settings of relearning."""

    name: ClassVar[str] = "relearning"
    shorthand: ClassVar[str] = "steps"
    changes_model: ClassVar[bool] = True
    steps: int = Field(20, ge=1)
    learning_rate: float = Field(3.0e-4, gt=0)
    batch_size: int = Field(16, ge=1)
    share: float = Field(0.5, gt=0, lt=1, description="Share of the groups that train; the others are asked.")
    group: str = Field("entity", min_length=1, description="Column whose value rows about the same thing have in common.")
    data: list[DataSource] = Field(
        [], description="What trains, with the column `group`; the forget rows of the evaluation when left out."
    )

    @field_validator("data", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return value if isinstance(value, list) else [value]

    def check(self, setting: Setting) -> None:
        """Refuse rows without a group."""
        if (encoded := setting.rows.get(_ROLE)) is not None:
            self._groups(encoded, "evaluate.data.forget")
            self._trained(setting)

    def work(self, setting: Setting) -> int:
        """Return the steps and the rows that are asked."""
        asked = self._asked(setting.rows[_ROLE], setting.seed) if _ROLE in setting.rows else []
        return self.steps + len(asked)

    def inputs(self, setting: Setting) -> Any:
        """Return the rows that train."""
        return items_hash(self._trained(setting)) if _ROLE in setting.rows else None

    def content(self, request: Request) -> Any:
        """Return rows, draws and what is asked of them."""
        if _ROLE not in request.rows:
            return None
        encoded = request.rows[_ROLE]
        return [
            items_hash(encoded.items),
            self._groups(encoded, "evaluate.data.forget"),
            [item.row.get("answer") for item in encoded.items],
            self.inputs(request),
            request.seed,
            request.settings.max_new_tokens,
        ]

    def run(self, request: Request) -> list[Measure]:
        """Return the accuracies before and after."""
        from temper.models.generation import generate

        if (encoded := request.rows.get(_ROLE)) is None:
            return self._absent("evaluate.data has no role forget")
        places = self._asked(encoded, request.seed)
        trained = self._trained(request)
        if not places or not trained:
            return self._absent(f"the forget rows have fewer than two values in {self.group}, so none can be held back")
        asked = [
            place for place in places if encoded.items[place].prompt and isinstance(encoded.items[place].row.get("answer"), str)
        ]
        if not asked:
            return self._absent("no forget row that is held back has a prompt and an answer column")
        before = request.answers[_ROLE].generations
        model = request.load()
        note = f"{self.steps} steps on {len(trained)} rows of other values of {self.group}"
        given = request.answers[_ROLE]
        measures = self._measures(given, places, before, 0, note)
        losses = fine_tune(model, trained, self, pad_id=pad_id_of(request.tokenizer), seed=request.seed, told=request.told)
        if not np.isfinite(losses).all():
            request.told(len(places))
            return [
                *measures,
                *(Absent(name, _ROLE, "gold", "failed", "the fine-tuning gave no finite loss") for name in _NAMES[2:]),
            ]
        after: list[str | None] = [None] * len(encoded.items)
        replies = generate(
            model,
            request.tokenizer,
            [encoded.items[place].prompt_ids or encoded.items[place].prompt for place in asked],
            max_new_tokens=request.settings.max_new_tokens,
            batch_size=request.settings.batch_size,
        )
        for place, reply in zip(asked, replies, strict=True):
            after[place] = reply
        request.told(len(places))
        return [*measures, *self._measures(given, places, after, 2, note)]

    def _measures(
        self, given: Answers, places: Sequence[int], texts: Sequence[str | None], first: int, note: str
    ) -> list[Measure]:
        found: list[tuple[float, float] | str] = []
        for place in places:
            item, text = given.items[place], texts[place]
            answer = item.row.get("answer")
            if not isinstance(answer, str):
                found.append("it has no answer column")
            elif text is None:
                found.append("it was not asked")
            else:
                found.append(reading(item.prompt, text, answer)[:2])
        measures: list[Measure] = []
        for number in range(2):
            values: list[float | str | None] = [entry if isinstance(entry, str) else entry[number] for entry in found]
            measures.append(per_item(_NAMES[first + number], _ROLE, "gold", values, places, note))
        return measures

    def _absent(self, reason: str) -> list[Measure]:
        return [Absent(name, _ROLE, "gold", "skipped", reason) for name in _NAMES]

    def _groups(self, encoded: Encoded, where: str) -> list[str]:
        groups = []
        for item in encoded.items:
            value = item.row.get(self.group)
            if value is None:
                columns = ", ".join(name for name in item.row if name != "id")
                raise DataError(
                    f"{where} row {item.id!r}: has no column {self.group!r}, by which relearning holds rows back. Its columns: {columns}. Set "
                    "evaluate.probes relearning.group to the column that names what a row is about."
                )
            groups.append(str(value))
        return groups

    def _training_groups(self, encoded: Encoded, seed: int) -> frozenset[str]:
        """Return the values of the group column whose rows train: `share` of them, at least one and not all."""
        values = sorted(set(self._groups(encoded, "evaluate.data.forget")))
        if len(values) < 2:
            return frozenset(values)
        count = min(len(values) - 1, max(1, round(self.share * len(values))))
        order = generator(seed, "relearning", "split").permutation(len(values))
        return frozenset(values[number] for number in order[:count])

    def _asked(self, encoded: Encoded, seed: int) -> list[int]:
        train = self._training_groups(encoded, seed)
        groups = self._groups(encoded, "evaluate.data.forget")
        return [place for place, group in enumerate(groups) if group not in train]

    def _trained(self, setting: Setting) -> list[Item]:
        """Return the rows that train."""
        from temper.data import load_role

        encoded = setting.rows[_ROLE]
        train = self._training_groups(encoded, setting.seed)
        where = "evaluate.data.forget"
        if self.data:
            encoded = load_role(
                _ROLE, self.data, setting.tokenizer, world=setting.world, max_length=setting.limit, overflow="drop"
            )
            where = "relearning.data"
        found = [item for item, group in zip(encoded.items, self._groups(encoded, where), strict=True) if group in train]
        if not found:
            raise DataError(
                f"{where}: none of its {len(encoded.items)} rows has one of the values of {self.group!r} that are to train "
                f"({', '.join(sorted(train))[:80]}). Give data about the same things as evaluate.data.forget."
            )
        return found


def _batches(count: int, settings: Relearning, seed: int) -> Iterator[list[int]]:
    """Yield the places of the rows of each step: all of them in a drawn order, again and again."""
    queue: list[int] = []
    epoch = 0
    for _ in range(settings.steps):
        while len(queue) < settings.batch_size:
            queue += generator(seed, "relearning", "order", epoch).permutation(count).tolist()
            epoch += 1
        yield queue[: settings.batch_size]
        del queue[: settings.batch_size]


def fine_tune(
    model: Any,
    items: Sequence[Item],
    settings: Relearning,
    *,
    pad_id: int,
    seed: int,
    told: Callable[[int], None] | None = None,
) -> list[float]:
    """Train all weights of a model on rows, in place; return the loss of each step.

    Args:
        model: A causal language model.
        items: The rows.
        settings: Steps, rate, rows a step.
        pad_id: The id that fills.
        seed: Of the order of the rows.
        told: Called with 1 after each step.
    """
    import torch

    from temper.data.padding import pad_items
    from temper.train.engine import Engine, count_units
    from temper.train.losses.nll import NLL
    from temper.train.masked import masked_adamw

    model.requires_grad_(True)
    terms = [NLL(_ROLE)]
    engine = Engine(model, terms)
    optimizer = masked_adamw(list(model.named_parameters()), lr=settings.learning_rate)
    device = next(model.parameters()).device
    losses = []
    model.eval()  # no dropout: the same rows give the same weights
    for places in _batches(len(items), settings, seed):
        tensors = {name: tensor.to(device) for name, tensor in pad_items([items[place] for place in places], pad_id).items()}
        batches = {_ROLE: tensors}
        loss = engine(batches, count_units(terms, batches), [0])["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
        optimizer.step()
        losses.append(float(loss.detach()))
        if told is not None:
            told(1)
    return losses
