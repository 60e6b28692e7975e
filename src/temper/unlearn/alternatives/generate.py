"""Alternatives from the model itself: what it would also have said, sampled before it is changed (AltPO).

For every question a few samples are drawn at a temperature from the model from before, cut at stop strings; in each epoch one of them
stands beside the item. A sample that says the same as the answer it is to replace is drawn again under another number, a few times.

Samples are kept in the run folder, so a run that was stopped goes on with the same ones.

Source: Mekala et al., Alternate Preference Optimization (2024): 5 samples a question, temperature 1, 200 new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from temper.draws import generator
from temper.errors import DataError, RunError
from temper.files import hash_json, read_json, write_json
from temper.unlearn.alternatives.source import Alternatives, Draft

__all__ = ["Generate"]

_TRIES = 3


class Generate(Alternatives):
    """Settings of generation."""

    name: ClassVar[str] = "generate"
    shorthand: ClassVar[str] = "samples"
    needs_model: ClassVar[bool] = True
    samples: int = Field(5, ge=1, le=100, description="Samples for each question.")
    temperature: float = Field(1.0, gt=0)
    max_new_tokens: int = Field(200, ge=1)
    stop: list[str] = Field(["Question:", "Q:"], description="A sample ends before the first of these.")
    batch_size: int = Field(32, ge=1)

    def responses(self, draft: Draft, pairs: Sequence[tuple[int, int]]) -> list[str]:
        """Return one of the samples of each item, drawn by (item, epoch)."""
        wanted = sorted({item for item, _ in pairs})
        samples = self._samples(draft, wanted)
        draws = [int(generator(draft.seed, "alternative", epoch, item).integers(len(samples[item]))) for item, epoch in pairs]
        return [samples[item][draw] for (item, _), draw in zip(pairs, draws, strict=True)]

    def _samples(self, draft: Draft, wanted: Sequence[int]) -> dict[int, list[str]]:
        """Return the samples of the items, from the run folder where they are there."""
        if draft.model is None or draft.folder is None:
            raise RunError("alternatives are generated from the model, which is not loaded here")
        items = [draft.items[item] for item in wanted]
        key = hash_json(
            [self.model_dump(), draft.seed, draft.role, [[item.id, list(item.prompt_ids), item.response] for item in items]]
        )
        path = draft.folder / f"alternatives-{key[:16]}.json"
        if not path.exists():
            write_json(path, {str(place): texts for place, texts in zip(wanted, self._draw(draft, wanted), strict=True)})
        return {int(place): texts for place, texts in read_json(path).items()}

    def _draw(self, draft: Draft, wanted: Sequence[int]) -> list[list[str]]:
        from temper.models.generation import sample

        for place in wanted:
            if not draft.items[place].prompt_ids:
                raise DataError(
                    f"data.{draft.role} row {draft.items[place].id!r}: is text without a question, so nothing can be generated from it. Give prompt "
                    "and response columns, or messages."
                )

        def room(place: int) -> int:
            return max(1, min(self.max_new_tokens, draft.max_length - 1 - len(draft.items[place].prompt_ids)))

        good: dict[int, list[str]] = {place: [] for place in wanted}
        for attempt in range(_TRIES):
            open_ = [place for place in wanted if len(good[place]) < self.samples]
            if not open_:
                break
            if draft.progress is not None:
                draft.progress("generate", len(wanted) - len(open_), len(wanted), f"round {attempt + 1}")
            drawn: dict[int, list[str]] = {}
            # a prompt that leaves little room must not shorten the samples of the others
            for tokens in sorted({room(place) for place in open_}):
                alike = [place for place in open_ if room(place) == tokens]
                texts_of = sample(
                    draft.model,
                    draft.tokenizer,
                    [draft.items[place].prompt_ids for place in alike],
                    samples=self.samples,
                    temperature=self.temperature,
                    max_new_tokens=tokens,
                    batch_size=self.batch_size,
                    seed=draft.seed * _TRIES + attempt,
                    stop=self.stop,
                )
                drawn |= dict(zip(alike, texts_of, strict=True))
            for place, texts in drawn.items():
                answer = " ".join(draft.items[place].response.split()).casefold()
                fresh = [text.rstrip() for text in texts if text.strip() and " ".join(text.split()).casefold() != answer]
                good[place] = (good[place] + fresh)[: self.samples]
        empty = [draft.items[place].id for place in wanted if not good[place]]
        if empty:
            raise DataError(
                f"data.{draft.role}: the model says nothing but its answer for {len(empty)} rows ({', '.join(empty[:3])}), so they have no "
                "alternative. Raise the temperature of method.alternatives, or give alternatives in a column."
            )
        return [good[place] for place in wanted]
