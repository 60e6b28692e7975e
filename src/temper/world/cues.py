"""Short reviews with noisy cue words, for in-context classification and its calibration.

A review has four cue words. Three or four of them speak for its label, one may speak against it; one review in ten has
its label turned. Columns: ``prompt`` (the review and the question), ``labels`` (two label words, index 0 negative),
``label`` (0 or 1), ``response`` (the label word), ``flipped``.
"""

from __future__ import annotations

from typing import Any

from temper.draws import generator
from temper.world.answers import DIRECT
from temper.world.people import World

__all__ = ["CUES", "LABELS", "rows"]

LABELS = ("bad", "good")
CUES = (
    ("dull", "grey", "slow", "flat", "weak", "pale", "heavy", "stale"),
    ("bright", "warm", "quick", "sharp", "strong", "vivid", "light", "fresh"),
)
"""Cue words of the labels 0 and 1."""

_COUNT = 600
_FLIP_RATE = 0.1


def rows(world: World) -> list[dict[str, Any]]:
    """Return the classification rows; half of each label before the flips."""
    made = []
    for number in range(_COUNT):
        rng = generator(world.spec.seed, "cues", number)
        meant = number % 2
        against = int(rng.random() < 0.5)
        cues = [CUES[meant][i] for i in rng.permutation(len(CUES[meant]))[: 4 - against]]
        cues += [CUES[1 - meant][i] for i in rng.permutation(len(CUES[1 - meant]))[:against]]
        text = "The book is {}, {}, {} and {}.".format(*(cues[i] for i in rng.permutation(4)))
        flipped = bool(rng.random() < _FLIP_RATE)
        label = 1 - meant if flipped else meant
        made.append(
            {
                "id": f"cues/{number:03d}",
                "prompt": f"{text} Is the book good or bad?",
                "prefill": DIRECT,
                "response": f" {LABELS[label]}",
                "text": text,
                "labels": list(LABELS),
                "label": label,
                "flipped": flipped,
            }
        )
    return made
