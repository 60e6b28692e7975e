"""What forget and retain data share: exact repeats refuse a run, shared word runs are reported."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from temper.data.tokenise import Encoded, Item
from temper.errors import DataError

__all__ = ["OverlapReport", "check_overlap"]

_RUN = 13
"""Words in a run that counts as shared: the usual length in contamination checks."""


@dataclass(frozen=True)
class OverlapReport:
    """What was found.

    Attributes:
        exact: Forget rows that stand in the retain data too.
        ngram_share: Share of forget rows that share a run of 13 words with the retain data.
    """

    exact: int
    ngram_share: float


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


def _plain(item: Item) -> str:
    """Return what the row says, without the template around it: the same fact in two templates is the same fact."""
    return f"{item.question} {item.response}"


def _content(item: Item) -> str:
    words = _words(_plain(item))
    # text without letters or digits would all be the same after normalisation
    return " ".join(words) if words else unicodedata.normalize("NFKC", _plain(item)).strip()


def _runs(item: Item) -> set[tuple[str, ...]]:
    words = _words(_plain(item))
    return {tuple(words[start : start + _RUN]) for start in range(len(words) - _RUN + 1)}


def check_overlap(forget: Encoded, retain: Encoded, allow: bool) -> OverlapReport:
    """Return what forget and retain rows share, compared without case, punctuation and spacing.

    Raises:
        DataError: A forget row stands in the retain data and `allow` is not set.
    """
    kept = {_content(item): item.id for item in retain.items}
    repeated = [(item.id, kept[text]) for item in forget.items if (text := _content(item)) in kept]
    if repeated and not allow:
        first, second = repeated[0]
        raise DataError(
            f"{len(repeated)} of {len(forget.items)} forget rows stand in the retain data too (forget {first!r} is retain {second!r}): the run would "
            "be told to forget and to keep them. Remove them from retain, or set train.allow_overlap=true if that is meant."
        )
    runs: set[tuple[str, ...]] = set().union(*(_runs(item) for item in retain.items))
    shared = sum(bool(_runs(item) & runs) for item in forget.items)
    return OverlapReport(len(repeated), round(shared / len(forget.items), 4))
