"""Merging: one model of several that were trained apart from the same base; methods one file each, streamed from disk to disk.

A method is settings first (checked without torch); its mathematics are pure functions of tensors in the same file. `temper.merge.deltas`
opens base and models once and merges them as often as wanted, in memory or into a folder. How models come to be trained apart
(splits, jobs) belongs to the capability that wants it. Adding a method: a file like `ties.py`, a line in the registry, a test.
"""

from temper.merge.dare_linear import DareLinear
from temper.merge.dare_ties import DareTies
from temper.merge.linear import Linear
from temper.merge.magnitude_prune import MagnitudePrune
from temper.merge.method import MergeMethod
from temper.merge.negation import Negation
from temper.merge.norm_matched_mean import NormMatchedMean
from temper.merge.slerp import Slerp
from temper.merge.task_arithmetic import TaskArithmetic
from temper.merge.ties import Ties

__all__ = [
    "DareLinear",
    "DareTies",
    "Linear",
    "MagnitudePrune",
    "MergeMethod",
    "Negation",
    "NormMatchedMean",
    "Slerp",
    "TaskArithmetic",
    "Ties",
]
