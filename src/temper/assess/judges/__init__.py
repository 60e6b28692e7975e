"""Judges: who says what a reasoning trace gives away, one file each.

A judge puts a trace into C1 (nothing useful), C2 (related facts), C3 (rules out wrong options) or C4 (states or supports the right answer).
To add one, derive from `Judge` and name it in `temper.registry`, or in an entry point of the group `temper.judge`.
"""

from temper.assess.judges.judge import Case, Category, Judge, Verdict

__all__ = ["Case", "Category", "Judge", "Verdict"]
