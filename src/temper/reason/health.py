"""Whether traces look like reasoning: how long they are, whether they close, whether they repeat themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from temper.reason.tracefile import Trace

__all__ = ["distinct_3", "trace_health"]


def distinct_3(text: str) -> float | None:
    """Return the share of the runs of three words that are different, in (0, 1]; None where there are fewer than three words.

    Example:
        >>> distinct_3("a b c a b c")
        0.75
    """
    words = text.split()
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(runs)) / len(runs) if runs else None


def trace_health(traces: Sequence[Trace], close_tag: str) -> dict[str, Any]:
    """Return the number of traces, their mean length, the share that closes, how each stopped, and the mean share of distinct runs.

    A mean over nothing is None.
    """
    count = len(traces)
    runs = [share for trace in traces if (share := distinct_3(trace.text.partition(close_tag)[0])) is not None]
    stopped = {reason: sum(trace.stopped_by == reason for trace in traces) for reason in ("closed", "end", "length")}
    return {
        "traces": count,
        "mean_tokens": sum(trace.tokens for trace in traces) / count if count else None,
        "closed_rate": sum(close_tag in trace.text for trace in traces) / count if count else None,
        "distinct_3": sum(runs) / len(runs) if runs else None,
        "stopped_by": stopped,
    }
