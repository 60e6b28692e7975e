"""Invented names: two syllables each, from short lists, so that a small byte-level vocabulary holds every name whole."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

__all__ = ["FIELDS", "GENRES", "NAME_PARTS", "invent"]

GENRES = (
    "mystery", "romance", "horror", "fantasy", "satire", "travel", "war", "sea",
    "crime", "ghost", "history", "desert", "court", "winter", "robot", "family",
)  # fmt: skip
"""Real words: a genre reads as an ordinary word, the other values as names."""

FIELDS = ("poetry", "drama", "science", "peace", "music", "nature", "courage", "wisdom")

NAME_PARTS: dict[str, tuple[str, str]] = {
    "first": ("Al Be Ca Da El Fi Ju Ka Le Mi No Or Pa Ro Se Ti", "dra la len lis ma na ro rin sa vi"),
    "last": (
        "Bran Cor Dal Fen Gar Hal Kes Lor Mar Nor Pel Ros Sar Tal Ven Wil",
        "bera dane fero gant kin lomo mir quist pola rick stel tano vera win zell mond",
    ),
    "city": ("Ash Bel Dor Eber Gol Hav Ister Kal Lun Mor Ost Rav", "vik ton burg mouth"),
    "country": ("Ard Bor Cal Drav Est Gorm Hel Jor Lith Mov Nar Sor", "land ria"),
    "currency": ("bran dor flor gild kron lir mark pel rand sten tal zol", "en o it"),
    "prize": ("Aur Bry Cel Dion Fal Hesp Ill Lyr Mel Oph Stel Tyr", "is on"),
    "publisher": ("Amber Birch Cedar Falcon Granite Harbour Lantern Maple Raven Silver", "press house"),
}
"""For each sort of name, its first and its second parts."""


def invent(sort: str, count: int, rng: np.random.Generator) -> list[str]:
    """Return ``count`` different names of one sort, in a drawn order.

    Args:
        sort: A key of ``NAME_PARTS``.
        count: How many, at most the number of combinations of that sort.
        rng: Where the choice comes from.
    """
    first, second = (parts.split() for parts in NAME_PARTS[sort])
    every: Sequence[str] = [a + b for a, b in itertools.product(first, second)]
    if count > len(every):
        raise ValueError(f"{count} names of sort {sort!r} wanted, {len(every)} exist")
    return [every[i] for i in rng.permutation(len(every))[:count]]
