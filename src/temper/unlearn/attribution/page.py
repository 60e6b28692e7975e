"""The page about masks: how they were made, where their weights lie, how far they agree, which scores were selected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from temper import __version__
from temper.display.numbers import compact, percent
from temper.display.page import Page, Section, render
from temper.display.tables import Cell, Heading, Row, Table
from temper.display.text import shortened, squeezed
from temper.files import write_text
from temper.unlearn.attribution.heatmap import density_map, kinds_and_layers, scale_of, score_bars

__all__ = ["mask_page", "write_mask_page"]

_CHARACTERS = 40


def write_mask_page(path: Path, inspected: dict[str, Any]) -> Path:
    """Write the page of some masks whole.

    Args:
        path: The file.
        inspected: What `temper.unlearn.attribution.maskfiles.inspect_masks` returned.
    """
    return write_text(path, mask_page(inspected))


def mask_page(inspected: dict[str, Any]) -> str:
    """Return the page of some masks as HTML."""
    files = inspected["files"]
    sections = [
        Section("masks", "The masks", _notes(files) + _table_of_masks(files).html()),
        Section("where", "Where the selected weights are", _maps(files) + _table_of_kinds(files).html()),
    ]
    if inspected["overlaps"]:
        sections.append(Section("overlap", "How far the masks agree", _table_of_overlaps(inspected["overlaps"]).html()))
    sections.append(Section("scores", "Which scores were selected", _scores(files)))
    sections.append(Section("made", "How they were made", _provenance(files)))
    names = ", ".join(shortened(file["name"], _CHARACTERS) for file in files[:3]) + (" …" if len(files) > 3 else "")
    many = len(files) != 1
    return render(
        Page(
            title=f"{len(files)} masks" if many else "One mask",
            subtitle=f"Which weights may change: {names}",
            sections=tuple(sections),
            footer=f"temper {__version__}. The numbers are counts of bits in the mask files; nothing here says whether a model that was trained "
            "under them forgets.",
        )
    )


def _gamma(facts: dict[str, Any]) -> Cell:
    # a header is what its file says; of a strange one nothing is shown
    said = facts.get("gamma")
    gamma: dict[str, Any] = said if isinstance(said, dict) else {}
    value = gamma.get("absolute")
    return Cell(f"{value:.3g}", count=str(gamma.get("mode", ""))) if isinstance(value, int | float) else Cell("–")


def _number(value: Any) -> Cell:
    return Cell(percent(value)) if isinstance(value, int | float) else Cell("–")


def _what(facts: dict[str, Any]) -> str:
    if "combined" in facts:
        return f"{facts['combined']} of {len(facts.get('of', ()))}"
    if "score" in facts:
        return str(facts["score"])
    selection = facts.get("selection")
    return str(selection.get("name", "–")) if isinstance(selection, dict) else "not said"


def _table_of_masks(files: Sequence[dict[str, Any]]) -> Table:
    columns = (
        Heading("score"),
        Heading("ratio", "asked for"),
        Heading("selected", "of those that compete"),
        Heading("of the model"),
        Heading("compete by"),
        Heading("γ_H"),
        Heading("balance", "|g_r/γ_H| > |θ|"),
    )
    rows = []
    for file in files:
        facts = file["facts"]
        scope = " · ".join(str(facts[key]) for key in ("structure", "scope") if facts.get(key))
        rows.append(
            Row(
                Heading(shortened(file["name"], _CHARACTERS)),
                (
                    Cell(_what(facts)),
                    _number(facts.get("ratio")),
                    Cell(
                        percent(file["selected"] / file["competing"]) if file["competing"] else "none",
                        count=f"{compact(file['selected'])} of {compact(file['competing'])}",
                    ),
                    _number(file["density"]),
                    Cell(scope or "–"),
                    _gamma(facts),
                    _number(facts.get("balance_share")),
                ),
            )
        )
    return Table("How much each mask lets change.", "mask", columns, tuple(rows))


def _notes(files: Sequence[dict[str, Any]]) -> Markup:
    """Return what must not be overlooked: masks of other models or weights, and masks that are one ranking in disguise."""
    notes = []
    if len({file["parameters_hash"] for file in files}) > 1:
        notes.append("The masks were made for different models and cannot be compared weight by weight.")
    elif len({file["weights_hash"] for file in files}) > 1:
        notes.append("The masks were computed from different weights of one architecture, or some do not say from which.")
    like: dict[str, list[str]] = {}
    for file in files:
        share, score = file["facts"].get("balance_share"), file["facts"].get("score")
        if score == "wagle" and isinstance(share, int | float) and not 0.05 <= share <= 0.9:
            like.setdefault("|g_r·g_f|" if share > 0.9 else "|θ·g_f|", []).append(shortened(file["name"], _CHARACTERS))
    for alone, names in like.items():
        notes.append(f"{', '.join(names)}: at this γ_H (see the balance) the ranking is close to that of {alone} alone.")
    return Markup("").join(Markup('<p class="note">{}</p>').format(note) for note in notes)


def _scales(files: Sequence[dict[str, Any]]) -> list[float]:
    """Return the density that is drawn in full colour in each map: the same for masks of about the same size, which are compared."""
    own = [scale_of(file["parts"]) for file in files]
    densities = [file["density"] or 0.0 for file in files]
    alike = max(densities, default=0) <= 1.1 * min(densities, default=0)
    return [max(own)] * len(files) if alike and files else own


def _maps(files: Sequence[dict[str, Any]]) -> Markup:
    maps = (density_map(file, number, scale) for number, (file, scale) in enumerate(zip(files, _scales(files), strict=True)))
    return Markup("").join(_headed(file, one) for file, one in zip(files, maps, strict=True))


def _headed(file: dict[str, Any], body: Markup) -> Markup:
    return Markup("<h3>{}</h3>{}").format(shortened(file["name"], 80), body) if body else body


def _table_of_kinds(files: Sequence[dict[str, Any]]) -> Table:
    kinds = list(dict.fromkeys(kind for file in files for group in kinds_and_layers(file["parts"])[:2] for kind in group))
    rows = []
    for kind in kinds:
        cells = []
        for file in files:
            own = [part for part in file["parts"] if part["kind"] == kind]
            weights, selected = sum(part["weights"] for part in own), sum(part["selected"] for part in own)
            share = selected / file["selected"] if file["selected"] else None
            cells.append(
                Cell(percent(selected / weights), count=f"{percent(share)} of the selected" if share is not None else "")
                if weights and any(part["competing"] for part in own)
                else Cell("–", count="did not compete")
            )
        rows.append(Row(Heading(shortened(kind, _CHARACTERS)), tuple(cells)))
    columns = tuple(Heading(shortened(file["name"], _CHARACTERS)) for file in files)
    return Table("Share of each kind's weights that is selected, over all blocks.", "kind", columns, tuple(rows))


def _table_of_overlaps(overlaps: Sequence[dict[str, Any]]) -> Table:
    rows = []
    for pair in overlaps:
        head = Heading(shortened(pair["one"], _CHARACTERS), f"with {shortened(pair['other'], _CHARACTERS)}")
        if pair["iou"] is None:
            rows.append(Row(head, (Cell(chip="cannot tell", reason=pair["why"], columns=3),)))
            continue
        inside = pair["in_the_larger"]
        numbers = (f"{pair['iou']:.3f}", f"{pair['by_chance']:.3f}", percent(inside) if inside is not None else "–")
        rows.append(Row(head, tuple(Cell(text) for text in numbers)))
    columns = (
        Heading("overlap", "IoU, 0 to 1"),
        Heading("by chance", "random masks of these sizes"),
        Heading("in the larger", "share of the smaller mask"),
    )
    return Table("Weights that both masks select, over weights that either selects.", "pair", columns, tuple(rows))


def _scores(files: Sequence[dict[str, Any]]) -> Markup:
    drawn = [_headed(file, score_bars(file, number)) for number, file in enumerate(files)]
    without = [shortened(file["name"], _CHARACTERS) for file, one in zip(files, drawn, strict=True) if not one]
    said = Markup("")
    if without:
        said = Markup('<p class="muted">No histogram of scores in: {}.</p>').format(", ".join(without))
    return Markup("").join(drawn) + said


def _facts(file: dict[str, Any]) -> dict[str, str]:
    facts = file["facts"]
    shown = {"file": file["path"], "weights they are for": (file["weights_hash"] or "not said")[:16]}
    for key in ("loss", "objective", "seed", "dtype", "gradients"):
        if facts.get(key) is not None:
            shown[key] = str(facts[key])
    for key, words in (("rows", "rows"), ("scored_tokens", "scored tokens")):
        if isinstance(facts.get(key), dict):
            shown[words] = ", ".join(f"{role} {compact(n) if isinstance(n, int) else n}" for role, n in facts[key].items())
    if isinstance(facts.get("data"), dict):
        shown["data"] = ", ".join(f"{role} {str(digest)[:12]}" for role, digest in facts["data"].items())
    if facts.get("exclude"):
        shown["left out"] = ", ".join(map(str, facts["exclude"]))
    if isinstance(facts.get("of"), list):
        shown["of"] = ", ".join(str(one.get("file")) for one in facts["of"] if isinstance(one, dict))
    return shown


def _provenance(files: Sequence[dict[str, Any]]) -> Markup:
    pieces = []
    for file in files:
        items = Markup("").join(
            Markup("<dt>{}</dt><dd>{}</dd>").format(key, squeezed(value, 160)) for key, value in _facts(file).items()
        )
        pieces.append(Markup('<h3>{}</h3><dl class="facts">{}</dl>').format(shortened(file["name"], 80), items))
    return Markup("").join(pieces)
