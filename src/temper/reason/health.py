"""Whether traces look like reasoning: how long they are, whether they close, whether they repeat themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from temper.reason.tracefile import Trace

__all__ = ["closing_note", "distinct_3", "trace_health"]


def distinct_3(words: Sequence[str]) -> float | None:
    """Return the share of the runs of three words that are different, in (0, 1]; None where there are fewer than three words.

    Example:
        >>> distinct_3("a b c a b c".split())
        0.75
    """
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(runs)) / len(runs) if runs else None


def closing_note(traces: Sequence[Trace], until: str) -> str | None:
    """Return what to tell a user where every trace was cut while the thought was still open; None elsewhere."""
    if until == "end" or not traces or any(trace.stopped_by != "length" for trace in traces):
        return None
    longest = max(trace.tokens for trace in traces)
    return (
        f"none of the {len(traces)} traces closes: each was cut, the longest after {longest} tokens. Rows hold the beginning of a thought and "
        "never its end. Raise max_new_tokens where ends matter, and look whether they are thoughts at all: temper traces."
    )


def trace_health(traces: Sequence[Trace], close_tag: str) -> dict[str, Any]:
    """Return the number of traces, their mean length, the share that closes, how each stopped, and the mean share of distinct runs.

    A mean over nothing is None.
    """
    count = len(traces)
    runs = [share for trace in traces if (share := distinct_3(trace.text.partition(close_tag)[0].split())) is not None]
    stopped = {reason: sum(trace.stopped_by == reason for trace in traces) for reason in ("closed", "end", "length")}
    return {
        "traces": count,
        "mean_tokens": sum(trace.tokens for trace in traces) / count if count else None,
        "closed_rate": sum(close_tag in trace.text for trace in traces) / count if count else None,
        "distinct_3": sum(runs) / len(runs) if runs else None,
        "stopped_by": stopped,
    }
