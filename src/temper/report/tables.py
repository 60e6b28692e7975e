"""The tables of a report: what matters at a glance, every number, cost, and where the numbers come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from temper.display.numbers import STATUS_TEXT, compact, figure, seconds
from temper.display.tables import Cell, Heading, Row, Table, absent, number
from temper.display.theme import icon
from temper.report.columns import Column, Columns
from temper.report.forgetting import Position
from temper.report.metrics import describe, order, role_name, section
from temper.report.sides import span

__all__ = ["GLANCE", "cost_table", "gaps_table", "glance_table", "numbers_table", "plane_table"]

GLANCE: Final = (
    ("answer_accuracy", "forget", "direct answer right"),
    ("answer_accuracy.lenient", "trace", "right after thinking"),
    ("trace_leak.statement", "trace", "trace states the fact"),
    ("answer_accuracy", "neighbour", "neighbours kept"),
    ("answer_accuracy.lenient", "reasoning", "reasoning kept"),
    ("trace_health.healthy", "retain_trace", "kept traces healthy"),
    ("membership.loss", "forget", "membership AUC"),
    ("utility", "all", "utility"),
)
"""The numbers that stand beside the picture: metric, role, heading."""


def _cell(column: Column, metric: str, role: str) -> Cell:
    result = column.result(metric, role)
    if column.facts is None:
        return replace(absent(result.status, result.reason), reason="")  # the head of the column or row says why, once
    if column.which == "original" and metric == "utility.relative":
        return Cell(figure(1.0, "ratio"), "by definition")
    is_absent = result.status == "skipped" and column.evidence.find(metric, role, column.which) is None
    ends = span(result) or (result.low, result.high)
    return number(
        result.value,
        describe(metric).unit,
        low=ends[0],
        high=ends[1],
        n=result.n,
        dropped=result.dropped,
        status="absent" if is_absent else result.status,
        reason=result.reason,
    )


def _head(column: Column) -> Heading:
    below = column.evidence.method if column.is_run and column.evidence.method != column.name.lower() else ""
    if column.facts is None:
        below = STATUS_TEXT[f"no_{column.which}"]
    return Heading(column.name, below, icon(column.mark))


def _glance(column: Column, keys: Sequence[tuple[str, str]]) -> tuple[Cell, ...]:
    if column.facts is None:
        return (replace(absent(f"no_{column.which}", None), reason="", columns=len(GLANCE)),)
    cells = (_cell(column, metric, role) for metric, role in keys)
    # why a number that is known is what it is stands in the table of all numbers
    return tuple(replace(cell, reason="") if column.known(*key) else cell for cell, key in zip(cells, keys, strict=True))


def glance_table(models: Columns) -> Table:
    """Return the few numbers that decide, one row a model; a number that was read in the place of another has its name in the heading."""
    keys = [models.first(metric, role) for metric, role, _ in GLANCE]
    return Table(
        caption="The numbers behind the picture, with 95 % intervals (the 3/n bound where all items agree) and the number of items n.",
        corner="model",
        columns=tuple(
            Heading(words, "" if used == metric else describe(used).label)
            for (metric, _, words), (used, _) in zip(GLANCE, keys, strict=True)
        ),
        rows=tuple(Row(_head(column), _glance(column, keys)) for column in models),
    )


def _by_role(keys: Sequence[tuple[str, str]], cells: Callable[[str, str], tuple[Cell, ...]]) -> tuple[Row, ...]:
    """Return one row a number, under a heading for each role, and for what was decoded in another way or attacked."""
    rows: list[Row] = []
    for part, role in dict.fromkeys((section(metric), role) for metric, role in keys):
        rows.append(Row(Heading(f"{role_name(role)}, {part}" if part else role_name(role))))
        rows += [
            Row(Heading(describe(metric).label), cells(metric, own))
            for metric, own in keys
            if own == role and section(metric) == part
        ]
    return tuple(rows)


def numbers_table(models: Columns, keys: Sequence[tuple[str, str]]) -> Table:
    """Return every number that was taken: one row a metric and role, one column a model."""
    return Table(
        "Every number that was taken: value, 95 % interval (the 3/n bound where all items agree), number of items n.",
        "number",
        tuple(_head(column) for column in models),
        _by_role(keys, lambda metric, role: tuple(_cell(column, metric, role) for column in models)),
    )


def gaps_table(models: Columns) -> Table | None:
    """Return how far each run has come from the original to gold, or None where no evidence says so."""
    keys = sorted({(g.metric, g.role) for c in models.runs for g in c.evidence.gaps}, key=lambda key: order(*key))
    if not keys:
        return None
    return Table(
        "Share of the way from the original to gold that each run has come: 0 as the original, 1 as gold, above 1 past gold. Below it the "
        "distance that is left, |run − gold|.",
        "number",
        tuple(_head(column) for column in models.runs),
        _by_role(keys, lambda metric, role: tuple(_gap(column, metric, role) for column in models.runs)),
    )


def _gap(column: Column, metric: str, role: str) -> Cell:
    gap = next((g for g in column.evidence.gaps if (g.metric, g.role) == (metric, role)), None)
    if gap is None:
        return absent("absent", None)
    left = f"{figure(gap.absolute_gap, describe(metric).unit)} left" if gap.absolute_gap is not None else ""
    if gap.gap_closed is None or gap.status != "ok":
        return replace(absent(gap.status if gap.status != "ok" else "absent", gap.reason), interval=left)
    return Cell(figure(gap.gap_closed, "score"), left)


def plane_table(positions: Sequence[Position]) -> list[tuple[str, str]]:
    """Return the models that have no point in the plane, and why."""
    return [(p.name, p.why or "not known") for p in positions if p.utility is None or p.forgetting is None]


def cost_table(models: Columns) -> Table:
    """Return what each run cost."""
    rows = []
    for column in models.runs:
        cost = column.evidence.cost
        if cost is None:
            cells = tuple(absent("absent", "no cost was recorded, as for a model that was not made here") for _ in range(5))
        else:
            share = f"{100 * cost.trained_parameters / max(cost.parameters, 1):.3g}\u00a0% of {compact(cost.parameters)}"
            cells = (
                Cell(seconds(cost.cpu_s)),
                Cell(seconds(cost.wall_s)),
                Cell(compact(cost.steps)),
                Cell(compact(cost.tokens)),
                Cell(compact(cost.trained_parameters), share),
            )
        rows.append(Row(_head(column), cells))
    heads = ("CPU time", "wall time", "steps", "tokens", "parameters trained")
    return Table(
        "What making each model cost; judging it is not counted. Tokens are unpadded.",
        "run",
        tuple(Heading(h) for h in heads),
        tuple(rows),
    )
