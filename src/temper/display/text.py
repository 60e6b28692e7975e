"""Text from models, data and users made fit to be shown: escaped, visible, inert.

Nothing reaches a page except through the autoescaping environment here; markdown has its own escape.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

__all__ = ["environment", "markdown", "marked", "shortened", "squeezed", "visible"]

# Control characters have pictures at U+2400; direction overrides could show a completion in another order than it has.
_PICTURES: Final = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
_PICTURES_AND_BLANKS: Final = (
    _PICTURES
    | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
    | dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C], 0xFFFD)
    | dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)
    | dict.fromkeys([0xFFFE, 0xFFFF, 0x2028, 0x2029], 0xFFFD)
)
_MARKDOWN: Final = re.compile(r"([\\`*_\[\]<>#|~&$]|:(?=//)|(?<=\bwww)\.|^[-+=])")
_NUMBERED: Final = re.compile(r"^(\d+)([.)])")


def visible(text: str) -> str:
    """Return the text with control, direction and surrogate characters replaced one for one, so that offsets hold."""
    return text.translate(_PICTURES_AND_BLANKS)


def shortened(text: str, length: int) -> str:
    """Return the text on one line, cut to at most ``length`` characters with an ellipsis."""
    line = " ".join(visible(text).split())
    return line if len(line) <= length else line[: max(length - 1, 0)].rstrip() + "…"


def squeezed(text: str, length: int) -> str:
    """Return the text on one line, cut in the middle: names of a sweep differ at their end."""
    line = " ".join(visible(text).split())
    if len(line) <= length:
        return line
    end = (length - 1) // 2
    return f"{line[: length - 1 - end]}…{line[len(line) - end :]}"


def markdown(text: str) -> str:
    r"""Return the text on one line with every character that markdown or HTML could act on escaped.

    Example:
        >>> markdown("<b>a|b</b>")
        '\\<b\\>a\\|b\\</b\\>'
    """
    return _NUMBERED.sub(r"\1\\\2", _MARKDOWN.sub(r"\\\1", " ".join(visible(text).split())))


def marked(text: str, spans: Iterable[tuple[int, int]]) -> list[tuple[str, bool]]:
    """Return the text cut into (piece, is marked), overlapping spans joined and spans outside the text clipped."""
    joined: list[list[int]] = []
    for start, end in sorted((max(0, start), min(len(text), end)) for start, end in spans):
        if start >= end:
            continue
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([start, end])
    shown = visible(text)
    pieces: list[tuple[str, bool]] = []
    position = 0
    for start, end in joined:
        if position < start:
            pieces.append((shown[position:start], False))
        pieces.append((shown[start:end], True))
        position = end
    if position < len(text) or not pieces:
        pieces.append((shown[position:], False))
    return pieces


@cache
def environment(folder: Path) -> Environment:
    """Return the jinja environment of a folder of templates: everything escaped, unknown names refused."""
    made = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent / "templates"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["visible"] = visible
    return made
