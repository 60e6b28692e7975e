"""How much a model's own reasoning trace reads like a trace, judged by the original model.

    trace_health.nll_original = mean over rows of  (1/T) sum_t -log p_original(r_t | x, r_<t)      in nats a token

x is the row's prompt, r the trace that the judged model wrote after it, as the tokenizer writes that text. exp of it is the perplexity;
the mean is taken over the logarithm because a few garbled traces with a perplexity of many thousands would be all that a mean of
perplexities shows. A trace that the original would write itself is near 0, garble far above: a low leak rate with a high value here is
a broken model and not one that forgot.

Roles whose reference answers think have it. An empty trace has no tokens and is left out, with the reason.

Source: trace health as the R2MU evaluation needs it beside the leak rate; perplexity as usual.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from temper.assess.measure import FORGOTTEN, Absent, Answers, Better, Measure, Needs, per_item
from temper.assess.metrics.thoughts import thinks

__all__ = ["TracePerplexity"]


class TracePerplexity:
    """One measure for each role that thinks."""

    name: ClassVar[str] = "trace_perplexity"
    needs: ClassVar[Needs] = "original"
    result: ClassVar[str] = "trace_health.nll_original"

    def compute(self, answers: Mapping[str, Answers]) -> list[Measure]:
        """Return the measures; absent where no original model was scored."""
        measures: list[Measure] = []
        for role, given in answers.items():
            places = [place for place, item in enumerate(given.items) if item.prompt and thinks(item)]
            if not places:
                continue
            better: Better = "gold" if role in FORGOTTEN else "lower"
            if not given.trace_nll:
                measures.append(Absent(self.result, role, better, "no_original", "no original model was scored"))
                continue
            values = [given.trace_nll[place] for place in places]
            finite = [value for value in values if isinstance(value, float) and math.isfinite(value)]
            note = f"as a perplexity: {math.exp(min(float(np.mean(finite)), 700.0)):.3g}" if finite else None
            measures.append(per_item(self.result, role, better, values, places, note, is_share=False))
        return measures
