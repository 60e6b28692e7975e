"""Tables of numbers with intervals and counts, where an absent number is a chip with its reason, never blank and never 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from temper.display.numbers import STATUS_TEXT, Unit, figure, interval
from temper.display.text import environment, markdown

__all__ = ["Cell", "Heading", "Row", "Table", "absent", "number", "words"]


@dataclass(frozen=True, slots=True)
class Cell:
    """What stands in one place of a table."""

    text: str = ""
    interval: str = ""
    count: str = ""
    chip: str = ""
    reason: str = ""
    code: bool = False
    columns: int = 1

    def plain(self) -> str:
        """Return the cell as one line of text."""
        extra = ", ".join(part for part in (self.interval, self.count) if part)
        said = [f"{self.text} ({extra})" if extra and self.text else self.text or extra]
        said.append(": ".join(part for part in (self.chip, self.reason) if part))
        return "; ".join(part for part in said if part)


@dataclass(frozen=True, slots=True)
class Heading:
    """The head of a row or a column: its words, a smaller line below and the picture of a model."""

    text: str
    below: str = ""
    icon: Markup = Markup()  # noqa: RUF009 (immutable)


@dataclass(frozen=True, slots=True)
class Row:
    """A row; one without cells is the heading of the rows below it."""

    head: Heading
    cells: tuple[Cell, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a caption, of which the first column heads the rows."""

    caption: str
    corner: str
    columns: tuple[Heading, ...]
    rows: tuple[Row, ...]

    def html(self) -> Markup:
        """Return the table for a page."""
        template = environment(Path(__file__).parent / "templates").get_template("table.html.j2")
        return Markup(template.render(table=self, labels=[column.text for column in self.columns]))

    def markdown(self) -> str:
        """Return the table in markdown, every text escaped."""
        lines = [
            "| " + " | ".join(markdown(text) or " " for text in [self.corner, *(column.text for column in self.columns)]) + " |",
            "| " + " | ".join(["---"] * (1 + len(self.columns))) + " |",
        ]
        for row in self.rows:
            head = " · ".join(markdown(text) for text in (row.head.text, row.head.below) if text)
            cells = [text for cell in row.cells for text in (markdown(cell.plain()), *[" "] * (cell.columns - 1))]
            cells = cells or [" "] * len(self.columns)
            lines.append("| " + " | ".join([f"**{head}**" if not row.cells else head, *cells]) + " |")
        return "\n".join(lines) + "\n"


def absent(status: str, reason: str | None) -> Cell:
    """Return the cell of a number that is not known: a chip and why."""
    chip = {"failed": "failed", "skipped": "skipped", "absent": "not measured"}.get(status, "cannot tell")
    return Cell(chip=chip, reason=reason or STATUS_TEXT.get(status, status))


def number(
    value: float | None,
    unit: Unit,
    *,
    low: float | None = None,
    high: float | None = None,
    n: int = 0,
    dropped: int = 0,
    status: str = "ok",
    reason: str | None = None,
) -> Cell:
    """Return the cell of a number with its interval and the items it rests on, or of its absence.

    A value that is there but must not be relied on is shown with a chip that says so.
    """
    if value is None or status not in ("ok", "too_few_items", "degenerate"):
        return absent(status if status != "ok" else "absent", reason)
    count = f"n {n}" if n else ""
    if dropped:
        count += f", {dropped} not scored"
    span = interval(low, high, unit) if low is not None and high is not None else ""
    chip = "" if status == "ok" else status.replace("_", " ")
    return Cell(figure(value, unit), span, count, chip, reason or (STATUS_TEXT[status] if chip else ""))


def words(texts: Sequence[str], *, code: bool = False) -> tuple[Cell, ...]:
    """Return a cell for each text."""
    return tuple(Cell(text, code=code) for text in texts)
