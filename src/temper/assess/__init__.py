"""The judgement of a model: one record an item, numbers with intervals, the comparison with the retrained model.

Scoring a model costs one forward and one greedy continuation an item; every metric is a pure function of those. Drawing the
numbers belongs to `temper.display` and `temper.report`; making a model forget to the capabilities below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from temper.assess.evidence import Evidence
    from temper.assess.runner import check, given, run

__all__ = ["Evidence", "check", "given", "run"]

_HOME = {"Evidence": "evidence", "check": "runner", "given": "runner", "run": "runner"}


def __getattr__(name: str) -> Any:
    if name in _HOME:  # torch loads only when something is scored
        import importlib

        return getattr(importlib.import_module(f"temper.assess.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
