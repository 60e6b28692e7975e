"""The compact table of evidence on a terminal: original, gold, then each run.

Evidence is known here by its shape only: this room lies below the one that makes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Protocol

from temper.display.firsts import first_known
from temper.display.numbers import Unit, figure, seconds
from temper.display.text import shortened, squeezed

__all__ = ["COLUMNS", "EvidenceLike", "ResultLike", "columns_of", "print_evidence", "table_rows"]

Which = Literal["unlearned", "original", "gold"]

COLUMNS: Final[tuple[tuple[str, str, str, Unit], ...]] = (
    ("forget\nanswer", "answer_accuracy", "forget", "share"),
    ("answer\nafter\nthought", "answer_accuracy.lenient", "trace", "share"),
    ("trace\nstates\nfact", "trace_leak.statement", "trace", "share"),
    ("neigh-\nbours\nkept", "answer_accuracy", "neighbour", "share"),
    ("reason-\ning\nkept", "answer_accuracy.lenient", "reasoning", "share"),
    ("kept\ntraces\nhealthy", "trace_health.healthy", "retain_trace", "share"),
    ("member-\nship\nAUC", "membership.loss", "forget", "score"),
    ("utility", "utility", "all", "score"),
)
"""Heading, metric, role and unit of each column between the name and the time."""

_HEALTH: Final = ("trace_health.healthy", "retain_trace")
_MEMBERSHIP: Final = ("membership.loss", "forget")

UNKNOWN: Final = "?"
_WIDE_ENOUGH: Final = 110


class ResultLike(Protocol):
    """One number."""

    @property
    def value(self) -> float | None:
        """The number, None where it is not known."""
        ...

    @property
    def status(self) -> str:
        """'ok' where the value can be used."""
        ...

    @property
    def reason(self) -> str | None:
        """Why it cannot."""
        ...


class EvidenceLike(Protocol):
    """What is known of one unlearned model."""

    @property
    def name(self) -> str:
        """Name of the run."""
        ...

    @property
    def models(self) -> Mapping[str, Any]:
        """The models it speaks of."""
        ...

    @property
    def cost(self) -> Any:
        """What it cost, with ``cpu_s``; or None."""
        ...

    def find(self, metric: str, role: str, model: Which = "unlearned") -> ResultLike | None:
        """Return one number, or None."""
        ...


def columns_of(evidences: Sequence[EvidenceLike]) -> list[tuple[str, str, str, Unit]]:
    """Return the columns of a table: eighty characters have no room for all, so membership gives way to the health of kept traces."""
    is_known = any(evidence.find(*_HEALTH) is not None for evidence in evidences)
    return [
        (heading, *first_known(evidences, metric, role), unit)
        for heading, metric, role, unit in COLUMNS
        if (metric, role) != (_MEMBERSHIP if is_known else _HEALTH)
    ]


def _flat(heading: str) -> str:
    return heading.replace("-\n", "").replace("\n", " ")


def _instead(evidences: Sequence[EvidenceLike]) -> list[str]:
    """Return which columns show another number than their heading usually has."""
    plain = {heading: metric for heading, metric, _, _ in COLUMNS}
    read = [f"{_flat(heading)} from {metric}" for heading, metric, *_ in columns_of(evidences) if metric != plain[heading]]
    return [f"read from what these rows have: {', '.join(read)}"] if read else []


def table_rows(evidences: Sequence[EvidenceLike]) -> tuple[list[list[str]], list[str]]:
    """Return the rows of the table and, once each, the reasons why numbers in it are not known."""
    chosen: list[tuple[str, Which, EvidenceLike | None]] = []
    references: tuple[Which, ...] = ("original", "gold")
    for which in references:
        chosen.append((which, which, next((e for e in evidences if which in e.models), None)))
    chosen += [(squeezed(e.name, 24), "unlearned", e) for e in evidences]
    rows: list[list[str]] = []
    reasons: dict[str, None] = {}
    for name, which, evidence in chosen:
        row = [name]
        for heading, metric, role, unit in columns_of(evidences):
            found = evidence.find(metric, role, which) if evidence else None
            if found is not None and found.value is not None and found.status == "ok":
                row.append(figure(found.value, unit).replace("\u00a0", " "))
                continue
            row.append(UNKNOWN)
            where = f"{name}, {_flat(heading)}" if evidence else name
            why = (found.reason or found.status) if found else ("was not measured" if evidence else "was not given")
            reasons.setdefault(f"{UNKNOWN} {where}: cannot tell, {shortened(why, 120)}", None)
        row.append(
            seconds(evidence.cost.cpu_s).replace("\u00a0", " ") if which == "unlearned" and evidence and evidence.cost else "-"
        )
        rows.append(row)
    return rows, list(reasons)


def print_evidence(evidences: Sequence[EvidenceLike]) -> None:
    """Print a compact table of some runs on standard output.

    Numbers that are not known are `?`, with the reason below the table; `-` stands where a model has no cost.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if console.width < _WIDE_ENOUGH and not console.is_terminal:
        console.width = _WIDE_ENOUGH  # a log file has no width; cut numbers would be lost
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("model", no_wrap=True, min_width=8)
    for heading, *_ in columns_of(evidences):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("CPU", justify="right", no_wrap=True)
    rows, reasons = table_rows(evidences)
    for number, row in enumerate(rows):
        style = "dim" if number < 2 else ""
        table.add_row(*(Text(cell) for cell in row), style=style, end_section=number == 1)
    console.print(table)
    for reason in [*_instead(evidences), *reasons]:
        console.print(Text(reason, style="dim"))
