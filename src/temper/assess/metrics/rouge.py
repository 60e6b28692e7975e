"""ROUGE of the greedy continuation against the reference answer.

| result | meaning |
| --- | --- |
| rouge.l_recall | longest common subsequence of words / words of the reference; the headline |
| rouge.l_f1 | harmonic mean of that and of its share of the continuation |
| rouge.1_recall | words of the reference that occur / words of the reference |

An empty continuation scores 0. Words are compared after stemming, as TOFU does.

Source: Lin, ROUGE (2004); the package rouge-score; Maini et al., TOFU (2024).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

from temper.assess.measure import Answers, Measure, knowledge_better, per_item

__all__ = ["Rouge", "rouge"]

_PARTS: Final = ("l_recall", "l_f1", "1_recall")


class _Words:
    """The tokenizer of rouge-score, remembering texts: references and unchanged answers come back for every model."""

    def __init__(self) -> None:
        from rouge_score.tokenizers import DefaultTokenizer

        self.tokenize = functools.lru_cache(maxsize=20_000)(DefaultTokenizer(use_stemmer=True).tokenize)


@functools.cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rougeL"], tokenizer=_Words())


def rouge(continuation: str, reference: str) -> tuple[float, float, float]:
    """Return ROUGE-L recall, ROUGE-L F1 and ROUGE-1 recall, each in [0, 1]."""
    scores = _scorer().score(reference, continuation)
    return float(scores["rougeL"].recall), float(scores["rougeL"].fmeasure), float(scores["rouge1"].recall)


class Rouge:
    """Mean over the items of a role that have a prompt."""

    name: ClassVar[str] = "rouge"
    needs: ClassVar[Literal["records", "generations"]] = "generations"

    def compute(self, answers: Mapping[str, Answers]) -> list[Measure]:
        """Return three measures a role."""
        measures: list[Measure] = []
        for role, given in answers.items():
            pairs = [
                None if text is None else rouge(text, item.response)
                for item, text in zip(given.items, given.generations, strict=True)
            ]
            if all(pair is None for pair in pairs):
                continue  # plain text: there is no prompt to continue
            for place, part in enumerate(_PARTS):
                values: list[float | str | None] = ["it has no prompt" if pair is None else pair[place] for pair in pairs]
                measures.append(per_item(f"{self.name}.{part}", role, knowledge_better(role), values))
        return measures
