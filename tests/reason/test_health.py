import pytest

from temper.reason.health import closing_note, distinct_3, trace_health
from temper.reason.tracefile import Trace


def trace(text, tokens, stopped_by):
    return Trace("d", 0, 0, 1, "p", text, tokens, stopped_by, "g", None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a b", None), ("", None), ("a b c", 1.0), ("a b c a b c", 0.75), ("x x x x x", 1 / 3), ("a\nb  c d", 1.0)],
)
def test_distinct_3_is_the_share_of_different_runs_of_three_words(text, expected):
    assert distinct_3(text.split()) == expected


def test_health_counts_what_closes_and_how_long_and_repetitive_thoughts_are():
    found = trace_health(
        [
            trace("a b c a b c</think>", 7, "closed"),
            trace("x x x x x", 5, "length"),
            trace("a b c</think> x x x x x", 9, "end"),
            trace("yes", 1, "end"),
        ],
        "</think>",
    )
    assert found["traces"] == 4 and found["mean_tokens"] == 5.5 and found["closed_rate"] == 0.5
    assert found["stopped_by"] == {"closed": 1, "end": 2, "length": 1}
    assert found["distinct_3"] == pytest.approx((0.75 + 1 / 3 + 1.0) / 3)


def test_a_note_says_where_every_trace_was_cut_and_nowhere_else():
    cut, ended, closed = trace("a", 7, "length"), trace("a", 5, "end"), trace("a</think>", 5, "closed")
    note = closing_note([cut, trace("b", 9, "length")], "close")
    assert "none of the 2 traces closes" in note and "after 9 tokens" in note and "max_new_tokens" in note
    assert [closing_note(traces, "close") for traces in ([cut, closed], [cut, ended], [closed], [])] == [None] * 4
    assert closing_note([cut], "end") is None


def test_the_health_of_no_traces_is_not_known():
    assert trace_health([], "</think>") == {
        "traces": 0,
        "mean_tokens": None,
        "closed_rate": None,
        "distinct_3": None,
        "stopped_by": {"closed": 0, "end": 0, "length": 0},
    }
