r"""Words of their own in a text: the one rule by which values, options and statements are found in what a model says.

A text stands there if no letter, digit or underscore touches it, and where it begins or ends with a digit, if it is no part of a longer
number: 13 is in "13, or 14" and "13.", and in neither "130", "13.5" nor "13,000". Blanks are normalised and the sentence's end is left off.
"""

from __future__ import annotations

import re

__all__ = ["borders", "words_pattern"]


def borders(first: str, last: str) -> tuple[str, str]:
    """Return what must hold before and behind a text of its own, as regular expressions.

    Args:
        first: Its first character.
        last: Its last.
    """
    before = r"(?<!\w)(?<!\d[.,])" if first.isdigit() else r"(?<!\w)"
    behind = r"(?!\w|[.,]\d)" if last.isdigit() else r"(?!\w)"
    return before, behind


def words_pattern(text: str) -> str:
    """Return a regular expression for a text as words of their own, "" for one without words.

    Example:
        >>> [bool(re.search(words_pattern("7"), text)) for text in ("7.", "17", "7.5", "1,7")]
        [True, False, False, False]
    """
    words = text.strip().rstrip(".!? \t\n").split()
    if not words:
        return ""
    before, behind = borders(words[0][0], words[-1][-1])
    return before + r"\s+".join(map(re.escape, words)) + behind
