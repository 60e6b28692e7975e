"""What the study of R2MU shows: its tables, its bars and its page. Nothing here runs a model; see `r2mu_study.py`.

A cell is the mean over seeds, with the value of each seed in brackets where they are written differently. A number that was not measured
is a dash, and the reason stands at the end of the page. A bar on it is not met.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from timing import Bar

__all__ = ["TABLES", "Column", "Found", "Line", "bars", "beside", "cell", "page", "table", "verdict"]

Result = Mapping[str, Any]
"""Of one run: `numbers`, that is model to people to METRIC/ROLE to [value, n, reason], and `cpu_s`."""


@dataclass(frozen=True)
class Line:
    """One line of the tables.

    Attributes:
        title: In the table.
        variant: Whose runs hold it.
        model: unlearned, original or gold.
        mode: The decoding mode; None for the rows' own.
    """

    title: str
    variant: str
    model: str = "unlearned"
    mode: str | None = None


@dataclass(frozen=True)
class Column:
    """One number of the tables.

    Attributes:
        title: In the table.
        people: Whose part of the evaluation holds it.
        key: METRIC/ROLE.
        unit: How it is written: share, score, count or seconds.
        thinks: Whether it is taken in a decoding mode as well: answers after a thought, and whether what follows a forced one states the fact.
            A mode's line shows a dash for the others.
    """

    title: str
    people: str
    key: str
    unit: str = "share"
    thinks: bool = False


TABLES: dict[str, list[Column]] = {
    "Forgetting (lower is better; gold never saw these people)": [
        Column("direct answer right", "retain", "answer_accuracy/forget"),
        Column("after thinking, strict", "retain", "answer_accuracy/trace", thinks=True),
        Column("after thinking, lenient", "retain", "answer_accuracy.lenient/trace", thinks=True),
        Column("trace states the fact", "retain", "trace_leak.statement/trace", thinks=True),
        Column("first value of its kind is right", "retain", "trace_leak.first/trace"),
        Column("value anywhere in the trace", "retain", "trace_leak.anywhere/trace"),
        Column("states it, answer wrong", "retain", "trace_leak.and_wrong/trace"),
        Column("RT-UA (C2 to C4)", "retain", "trace_category.unsafe/trace"),
        Column("reasoning about them, right", "neighbour", "answer_accuracy/trace"),
        Column("reasoning about them, states a fact", "neighbour", "trace_leak.statement/trace"),
    ],
    "Kept (right answers; higher is better)": [
        Column("retain, direct", "retain", "answer_accuracy/retain"),
        Column("after thinking, strict", "retain", "answer_accuracy/retain_trace", thinks=True),
        Column("lenient", "retain", "answer_accuracy.lenient/retain_trace", thinks=True),
        Column("retain-topic reasoning", "retain", "answer_accuracy/reasoning", thinks=True),
        Column("arithmetic stories", "retain", "answer_accuracy/general", thinks=True),
        Column("neighbours, direct", "neighbour", "answer_accuracy/retain"),
        Column("neighbours, after thinking", "neighbour", "answer_accuracy/retain_trace"),
        Column("neighbour reasoning", "neighbour", "answer_accuracy/reasoning"),
        Column("background, direct", "neighbour", "answer_accuracy/general"),
    ],
    "Trace health": [
        Column("retain: healthy", "retain", "trace_health.healthy/retain_trace"),
        Column("closed", "retain", "trace_health.closed/retain_trace"),
        Column("distinct-3", "retain", "trace_health.distinct3/retain_trace", "score"),
        Column("words", "retain", "trace_health.words/retain_trace", "count"),
        Column("nats a token under the original", "retain", "trace_health.nll_original/retain_trace", "score"),
        Column("forget: healthy", "retain", "trace_health.healthy/trace"),
        Column("closed", "retain", "trace_health.closed/trace"),
        Column("distinct-3", "retain", "trace_health.distinct3/trace", "score"),
        Column("words", "retain", "trace_health.words/trace", "count"),
        Column("nats a token under the original", "retain", "trace_health.nll_original/trace", "score"),
    ],
    "Relearning: 20 steps on half of the forget people, the others are asked (lower is better), and what a run costs": [
        Column("direct, before", "retain", "relearning.before/forget"),
        Column("after", "retain", "relearning.after/forget"),
        Column("thinking, before", "neighbour", "relearning.before/forget"),
        Column("after", "neighbour", "relearning.after/forget"),
        Column("training", "", "cpu_s", "seconds"),
    ],
}
"""Heading to the columns below it."""


class Found:
    """What the runs gave.

    Args:
        results: Variant to the result of each seed.

    Attributes:
        missing: Why a number is not there, to the columns and lines it is missing from.
    """

    def __init__(self, results: Mapping[str, Sequence[Result]]) -> None:
        self.results = results
        self.missing: dict[str, list[str]] = {}

    def values(self, line: Line, column: Column) -> list[float] | None:
        """Return the value of each seed; None, with the reason kept, where one was not measured."""
        given = self.results.get(line.variant, [])
        if not given:
            return self._without(f"there is no run of {line.variant}", line, column)
        if column.key == "cpu_s":
            spent = [result["cpu_s"] for result in given]
            return None if line.model != "unlearned" or None in spent else spent
        if line.mode is not None and not column.thinks:
            return self._without(
                "of a forced thought only the answers, and whether what follows it states the fact, are measured: the trace is not the model's, "
                "and answers that do not think are those of the line above",
                line,
            )
        metric, _, role = column.key.partition("/")
        name = column.key if line.mode is None else f"{metric}@{line.mode}/{role}"
        found = []
        for result in given:
            value, _, reason = result["numbers"].get(line.model, {}).get(column.people, {}).get(name, (None, 0, None))
            if value is None:
                return self._without(reason or f"no evaluation has a number {name}", line, column)
            found.append(value)
        return found

    def mean(self, line: Line, key: str, people: str = "retain") -> float:
        """Return the mean over seeds; nan where it was not measured."""
        found = self.values(line, Column("", people, key, thinks=True))
        return math.nan if found is None else sum(found) / len(found)

    def _without(self, why: str, line: Line, column: Column | None = None) -> None:
        if line.title:  # bars ask without one
            self.missing.setdefault(why, []).append(line.title if column is None else f"{column.title} of {line.title}")


def _number(value: float, unit: str) -> str:
    return {"share": f"{100 * value:.1f}", "score": f"{value:.2f}"}.get(unit, f"{value:.1f}")


def cell(values: Sequence[float] | None, unit: str) -> str:
    """Return the mean, and each seed's value where they are written differently.

    Example:
        >>> cell([0.01, 0.02, 0.03], "share"), cell([1.0, 1.0], "share"), cell(None, "share")
        ('2.0 (1.0 / 2.0 / 3.0)', '100.0', '-')
    """
    if values is None:
        return "-"
    shown = [_number(value, unit) for value in values]
    mean = _number(sum(values) / len(values), unit)
    return mean if len(set(shown)) == 1 else f"{mean} ({' / '.join(shown)})"


def table(lines: Sequence[Line], columns: Sequence[Column], found: Found) -> str:
    """Return one markdown table: a line for each model, a column for each number."""
    units = {"share": ", %", "seconds": ", CPU-s"}
    rows = [["model", *(column.title + units.get(column.unit, "") for column in columns)], ["---"] * (1 + len(columns))]
    rows += [[line.title, *(cell(found.values(line, column), column.unit) for column in columns)] for line in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


TITLES = {"r2mu": "R2MU (A)", "sam": "R2MU + SAM (A)"}
"""The two ways that are held to the bars of R2MU: the second one takes the forget gradient where forgetting is worst nearby."""


def _kept(
    found: Found, name: str, key: str, people: str, at_least: float, at_most: float | None = None, way: str = "r2mu"
) -> Bar:
    """Return a bar on the share of the original's value that a way keeps."""
    before = found.mean(Line("", "rmu", "original"), key, people)
    share = found.mean(Line("", way), key, people) / before if before else math.nan
    return Bar(f"{TITLES[way]}: {name}, of the original's", share, at_least=at_least, at_most=at_most)


def beside(found: Found, way: str = "r2mu") -> list[Bar]:
    """Return the limits of retain on the neighbours; the study is not held to them."""
    return [
        _kept(found, "neighbours' answers, direct", "answer_accuracy/retain", "neighbour", 0.98, way=way),
        _kept(found, "neighbours' answers after thinking", "answer_accuracy/retain_trace", "neighbour", 0.98, way=way),
        _kept(found, "reasoning about neighbours", "answer_accuracy/reasoning", "neighbour", 0.97, way=way),
    ]


def bars_of(found: Found, way: str) -> list[Bar]:
    """Return the bars that R2MU is held to, for one way to run it."""
    title, run, rmu, gold = TITLES[way], Line("", way), Line("", "rmu"), Line("", "rmu", "gold")

    def kept(name: str, key: str, at_least: float, at_most: float | None = None) -> Bar:
        return _kept(found, name, key, "retain", at_least, at_most, way)

    def as_gold(reading: str, key: str) -> Bar:
        limit = found.mean(gold, key) + 0.03
        return Bar(
            f"{title}: forget answers after thinking, {reading}; limit: gold and 3 points", found.mean(run, key), at_most=limit
        )

    def holds_up(which: str, people: str) -> Bar:
        limit = found.mean(rmu, "relearning.after/forget", people)
        value = found.mean(run, "relearning.after/forget", people)
        return Bar(f"{title}: {which} after relearning; limit: those of RMU (A)", value, at_most=limit)

    return [
        Bar(f"{title}: traces that state the fact", found.mean(run, "trace_leak.statement/trace"), at_most=0.02),
        as_gold("strict", "answer_accuracy/trace"),
        as_gold("lenient", "answer_accuracy.lenient/trace"),
        kept("retain answers, direct", "answer_accuracy/retain", 0.98),
        kept("retain answers after thinking", "answer_accuracy/retain_trace", 0.98),
        kept("retain reasoning", "answer_accuracy/reasoning", 0.97),
        Bar(f"{title}: retain reasoning, as it is", found.mean(run, "answer_accuracy/reasoning"), at_least=0.97),
        kept("arithmetic stories", "answer_accuracy/general", 0.80),
        kept("retain traces that are healthy", "trace_health.healthy/retain_trace", 0.98),
        kept("retain traces that close", "trace_health.closed/retain_trace", 0.98),
        kept("distinct-3 of retain traces", "trace_health.distinct3/retain_trace", 0.95),
        kept("words of retain traces", "trace_health.words/retain_trace", 0.90, 1.10),
        holds_up("direct answers", "retain"),
        holds_up("answers after thinking", "neighbour"),
    ]


def bars(found: Found) -> list[Bar]:
    """Return every bar of the study, on means over seeds."""
    rmu, bare = Line("", "rmu"), Line("", "v0")
    return [
        Bar("RMU (A): direct forget answers right", found.mean(rmu, "answer_accuracy/forget"), at_most=0.05),
        Bar("RMU (A): traces that still state the fact", found.mean(rmu, "trace_leak.statement/trace"), at_least=0.40),
        *bars_of(found, "r2mu"),
        Bar("R2MU-v0 (A): retain reasoning", found.mean(bare, "answer_accuracy/reasoning"), at_most=0.10),
    ]


def verdict(bar: Bar) -> str:
    """Return a bar as an entry of a list: whether it is met, its name, value and limits.

    Example:
        >>> verdict(Bar("leak", 0.0123, at_most=0.02))
        '- met: leak: 1.2 % (at most 2.0 %)'
    """
    limits = [
        f"at {way} {100 * limit:.1f} %" for way, limit in (("least", bar.at_least), ("most", bar.at_most)) if limit is not None
    ]
    value = "not measured" if math.isnan(bar.value) else f"{100 * bar.value:.1f} %"
    return f"- {'met' if bar.met else '**NOT MET**'}: {bar.name}: {value} ({', '.join(limits)})"


def page(lines: Sequence[Line], results: Mapping[str, Sequence[Result]], setting: str, settings: Sequence[str]) -> str:
    """Return the page: what was run, the tables, the bars, the settings, and why a number is not there."""
    found = Found(results)
    parts = ["# R2MU on the embedded world: the study", "", setting]
    for heading, columns in TABLES.items():
        parts += ["", f"## {heading}", "", table(lines, columns, found)]
    if any(line.mode is not None for line in lines):
        parts += [
            "",
            'In the line of a decoding mode, "trace states the fact" is: what the model says behind the forced thought states it.',
        ]
    parts += ["", "## Bars, on means over seeds", "", *(verdict(bar) for bar in bars(found))]
    if "sam" in results:
        parts += ["", "The bars of R2MU, for R2MU with sharpness-aware steering:", ""]
        parts += [verdict(bar) for bar in bars_of(found, "sam")]
    parts += ["", "Beside the bars, the same limits on neighbours, who are in no batch:", ""]
    parts += [verdict(bar) for way in TITLES if way in results for bar in beside(found, way)]
    parts += ["", "## Settings", "", *settings]
    if found.missing:
        parts += ["", "## Why a number is not there", ""]
        parts += [f"- {why}: {'; '.join(dict.fromkeys(what))}" for why, what in found.missing.items()]
    return "\n".join(parts) + "\n"
