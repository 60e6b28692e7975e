"""What the metrics that read token probabilities share: which tokens count, and one value an item."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from temper.assess.measure import NOT_FINITE, Measure, knowledge_better, per_item

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from temper.assess.measure import Answers
    from temper.assess.records import Record

__all__ = ["NO_TOKENS", "by_role", "entries", "without_end"]

NO_TOKENS: Final = "no token is left once the end token is taken out"


def without_end(record: Record) -> NDArray[np.bool_]:
    """Return True at the tokens that are not the end token, (T,).

    Other toolkits leave out the last token whatever it is, which loses a real one in text without an end token.
    """
    return ~record.is_eos


def entries(records: Sequence[Record], value: Callable[[Record], float | None], missing: str) -> list[float | str | None]:
    """Return for each record its value, or why it has none."""
    found: list[float | str | None] = []
    for record in records:
        if record.failed:
            found.append(NOT_FINITE)
            continue
        number = value(record)
        found.append(missing if number is None else number)
    return found


def by_role(
    metric: str, answers: Mapping[str, Answers], value: Callable[[Record], float | None], missing: str = NO_TOKENS
) -> list[Measure]:
    """Return a measure a role from a function of one record; None from it leaves the item out.

    Args:
        metric: Name of the number.
        answers: By role.
        value: From a record whose numbers are finite.
        missing: Why an item without a value has none.
    """
    return [
        per_item(metric, role, knowledge_better(role), entries(given.records, value, missing)) for role, given in answers.items()
    ]
