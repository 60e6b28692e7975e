"""Colours as CSS variables, light and dark, and a colour with a marker shape for each model.

Figures are drawn in sentinel colours, one for each variable, and `temper.display.figures` puts the variable in their
place; so a figure follows the theme of the page it stands in. Model colours differ in shape too: they read in grey.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

__all__ = ["COLOURS", "SENTINELS", "Mark", "contrast", "css_variables", "icon", "mark_of", "sentinel"]

COLOURS: Final[dict[str, tuple[str, str]]] = {
    "paper": ("#f7f6f2", "#131519"),
    "surface": ("#ffffff", "#1b1e24"),
    "line": ("#d7d5cd", "#383d46"),
    "grid": ("#e9e7e1", "#2a2e36"),
    "ink": ("#1c2026", "#e9e7e2"),
    "muted": ("#595f69", "#a6abb5"),
    "link": ("#0b5aa0", "#7dbcf5"),
    "trace": ("#b23a17", "#f2845a"),
    "answer": ("#7288a0", "#7f97b0"),
    "reason": ("#2f7d63", "#63c2a2"),
    "band": ("#f3e9d0", "#3a3220"),
    "over": ("#ece4f4", "#2b2438"),
    "under": ("#fae6de", "#39261f"),
    "original": ("#636a75", "#aeb4be"),
    "gold": ("#966300", "#e3b341"),
    "run-1": ("#0a5ca3", "#6fb6f5"),
    "run-2": ("#a02f7a", "#e98fcd"),
    "run-3": ("#14735a", "#55cba6"),
    "run-4": ("#5745b8", "#b0a3fa"),
    "run-5": ("#8d4310", "#e2a066"),
    "run-6": ("#44691a", "#a2d06e"),
    "mark": ("#ffdccb", "#5d2a15"),
    "chip-unknown": ("#5a554a", "#c9c3b4"),
    "chip-unknown-ground": ("#ebe8df", "#34322c"),
    "chip-leak": ("#8e2a0d", "#ffb399"),
    "chip-leak-ground": ("#fbe2d8", "#47231a"),
    "chip-over": ("#5a2c82", "#d4b5f2"),
    "chip-over-ground": ("#ece1f5", "#382848"),
    "chip-kept": ("#3f4650", "#c8cdd5"),
    "chip-kept-ground": ("#e5e7eb", "#343a43"),
    "chip-met": ("#175638", "#93dcb5"),
    "chip-met-ground": ("#dcefe4", "#1c3a2c"),
}
"""Name of a variable to its colour on the light and on the dark page."""

SENTINELS: Final = {name: f"#face{index:02x}" for index, name in enumerate(COLOURS)}


def sentinel(name: str) -> str:
    """Return the colour a figure is drawn in where the page is to put the variable of that name."""
    return SENTINELS[name]


@dataclass(frozen=True, slots=True)
class Mark:
    """How a model is drawn: the name of its colour and the sign of its shape in matplotlib."""

    colour: str
    shape: str


_ORIGINAL: Final = Mark("original", "s")
_GOLD: Final = Mark("gold", "D")
_SHAPES: Final = ("o", "^", "v", "p", "h", "P", "X")
_RUN_COLOURS: Final = tuple(name for name in COLOURS if name.startswith("run-"))


def mark_of(which: str, run: int = 0) -> Mark:
    """Return the mark of the original, of gold, or of the run of that number (colour and shape repeat after 42)."""
    if which == "original":
        return _ORIGINAL
    if which == "gold":
        return _GOLD
    return Mark(_RUN_COLOURS[run % len(_RUN_COLOURS)], _SHAPES[run % len(_SHAPES)])


_PATHS: Final = {
    "s": "M2 2H12V12H2Z",
    "D": "M7 .8L13.2 7L7 13.2L.8 7Z",
    "o": "M7 1.5A5.5 5.5 0 1 1 6.99 1.5Z",
    "^": "M7 1.3L13 12.5H1Z",
    "v": "M7 12.7L1 1.5H13Z",
    "p": "M7 1L13 5.6L10.7 12.6H3.3L1 5.6Z",
    "h": "M7 .8L12.4 3.9V10.1L7 13.2L1.6 10.1V3.9Z",
    "P": "M5 1H9V5H13V9H9V13H5V9H1V5H5Z",
    "X": "M4 1L7 4L10 1L13 4L10 7L13 10L10 13L7 10L4 13L1 10L4 7L1 4Z",
}


def icon(mark: Mark) -> Markup:
    """Return the mark of a model as a small inline picture for legends and tables."""
    return Markup('<svg class="icon" viewBox="0 0 14 14" aria-hidden="true"><path d="{}" fill="var(--{})"/></svg>').format(
        _PATHS[mark.shape], mark.colour
    )


def css_variables(theme: int) -> str:
    """Return the declarations of all colours, of the light (0) or the dark (1) theme."""
    return ";".join(f"--{name}:{pair[theme]}" for name, pair in COLOURS.items())


def _luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours, 1 to 21.

    Source: WCAG 2.2, definition of contrast ratio.
    """
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
