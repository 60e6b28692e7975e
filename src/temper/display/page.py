"""The shell of every page: one file that needs nothing else, asks nobody for anything and runs no script but its own.

The content security policy of the page refuses every address; its single script is allowed by hash, so text that slipped
past the escaping would still be inert.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from markupsafe import Markup

from temper.display.text import environment
from temper.display.theme import css_variables

__all__ = ["FONT", "Page", "Section", "render"]

FONT: Final = 'system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans","DejaVu Sans",sans-serif'
_TEMPLATES: Final = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page: its anchor, its heading and its body, which is escaped already."""

    id: str
    title: str
    body: Markup


@dataclass(frozen=True, slots=True)
class Page:
    """What a page says."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]
    footer: str


def _style() -> str:
    light, dark = css_variables(0), css_variables(1)
    rules = (_TEMPLATES / "page.css").read_text(encoding="utf-8")
    return (
        f":root{{color-scheme:light;--font:{FONT};{light}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}\n"
        f"@media screen{{:root[data-theme=dark]{{color-scheme:dark;{dark}}}}}\n{rules}"
    )


def render(page: Page) -> str:
    """Return the page as HTML.

    The same page always gives the same bytes.
    """
    script = (_TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    template = environment(_TEMPLATES).get_template("page.html.j2")
    return template.render(page=page, policy=policy, style=Markup(_style()), script=Markup(script))
