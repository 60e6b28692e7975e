"""Smoothers: what stands between the gradients of a step and the optimiser, so that forgetting holds when weights move.

A model that sits in a flat region of the forget loss is harder to relearn than one at a sharp point. A smoother is settings
first (checked with the recipe, without torch); `begin` gives its running side, which the trainer calls once a step.
Which loss is made smooth belongs to the objective (`temper.unlearn`); `temper.train.losses` holds the losses. Adding one:
a file like `sam.py`, a line in the registry, a test.
"""

from temper.train.smoothers.base import NoSmoothing, Smoother, Smoothing, StepReport
from temper.train.smoothers.cr import CR
from temper.train.smoothers.gp import GP
from temper.train.smoothers.rs import RS
from temper.train.smoothers.sam import SAM
from temper.train.smoothers.wa import WA

__all__ = [
    "CR",
    "GP",
    "RS",
    "SAM",
    "WA",
    "NoSmoothing",
    "Smoother",
    "Smoothing",
    "StepReport",
]
