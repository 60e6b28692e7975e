"""Thoughts: the text between the tags, where it comes from, and how much of it is needed.

`traces` makes reasoning traces about a text, for whoever reads the role `trace`; it meets unlearning in a recipe alone. Measuring what
traces leak belongs to `temper.assess`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from temper.reason.making import make_traces
    from temper.reason.traces import CalledTraces, ColumnTraces, GeneratedTraces

__all__ = ["CalledTraces", "ColumnTraces", "GeneratedTraces", "make_traces"]


def __getattr__(name: str) -> Any:
    if name == "make_traces":
        from temper.reason.making import make_traces

        return make_traces
    if name in __all__:
        from temper.reason import traces

        return getattr(traces, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
