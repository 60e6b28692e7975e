"""Figures as inline SVG that follow the theme of their page, drawn twice: for a wide page and for a phone.

A drawing function gets a width in pixels and returns a matplotlib figure made with `canvas`, in sentinel colours
(`temper.display.theme.sentinel`). One point of matplotlib is one pixel of the page. The same data gives the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup, escape

from temper.display.page import FONT
from temper.display.text import visible
from temper.display.theme import SENTINELS, css_variables, sentinel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["NARROW", "WIDE", "Draw", "canvas", "figure", "standalone", "svg"]

WIDE: Final = 760
NARROW: Final = 340

Draw = Callable[[int], Any]
"""Given a width in pixels, returns a matplotlib figure."""

_SETTINGS: Final[dict[str, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "temper",
    "text.parse_math": False,  # a model named "$x$" is a name, not a formula
    "font.family": ["DejaVu Sans"],  # ships with matplotlib: the same measure on every machine
    "font.size": 12.0,
    "axes.unicode_minus": True,
    "path.simplify": False,
}


def canvas(width: int, height: int, *, left: int, right: int, top: int, bottom: int) -> tuple[Figure, Axes]:
    """Return a figure of that size and its axes, the margins given in pixels, without a frame."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width / 72, height / 72), dpi=72)
    drawn.patch.set_visible(False)
    area = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    axes = drawn.add_axes(area)
    axes.patch.set_visible(False)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0, colors=sentinel("muted"), labelsize=11, pad=5)
    axes.set_axisbelow(True)
    return drawn, axes


def svg(draw: Draw, width: int, *, name: str, title: str, description: str) -> Markup:
    """Return a drawing as an inline SVG element.

    Args:
        draw: Draws it.
        width: Pixels.
        name: Put before every id, so that no two figures of a page share one.
        title: What the figure is.
        description: What it shows, for those who cannot see it.
    """
    import matplotlib

    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        # the browser draws the texts with the reader's fonts; that matplotlib's font lacks a sign of a name does not matter
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        drawn = draw(width)
        written = io.StringIO()
        drawn.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = written.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>|<defs>\s*</defs>", "", text, flags=re.S)
    text = text.replace("font-family: 'DejaVu Sans'", "font-family: var(--font)")
    text = text.replace("xlink:href=", "href=")
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
    kept = {one for pair in used for one in pair if one}
    text = re.sub(r' \bid="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in kept else "", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    for colour, value in SENTINELS.items():
        text = text.replace(value, f"var(--{colour})")
    box = re.search(r'viewBox="([^"]+)"', text)
    if box is None:
        raise ValueError("matplotlib wrote an SVG without a viewBox")  # checked by the tests of every figure
    head = Markup('<svg viewBox="{}" role="img" aria-labelledby="{}-title {}-description">').format(box[1], name, name)
    labels = Markup('<title id="{}-title">{}</title><desc id="{}-description">{}</desc>').format(
        name, visible(title), name, visible(description)
    )
    body = text[text.index(">") + 1 :]
    body = re.sub(r"\s*\n\s*", "\n", body).strip()
    return head + labels + Markup(body)  # what is left comes from matplotlib, which escapes the texts it is given


def figure(draw: Draw, *, name: str, title: str, description: str, caption: str) -> Markup:
    """Return a figure element with the drawing for wide pages, the one for phones, and the caption."""
    wide = svg(draw, WIDE, name=name, title=title, description=description)
    narrow = svg(draw, NARROW, name=f"{name}-narrow", title=title, description=description)
    return Markup('<figure><div class="wide">{}</div><div class="narrow">{}</div><figcaption>{}</figcaption></figure>').format(
        wide, narrow, visible(caption)
    )


def standalone(inline: Markup) -> str:
    """Return an inline SVG as a file of its own that carries both themes, for a README or a slide."""
    style = (
        f"svg{{--font:{FONT};{css_variables(0)};background:var(--surface)}}"
        f"@media (prefers-color-scheme:dark){{svg{{{css_variables(1)}}}}}"
    )
    start = inline.index(">")
    return f'{inline[:start]} xmlns="http://www.w3.org/2000/svg">\n<style>{escape(style)}</style>{inline[start + 1 :]}\n'
