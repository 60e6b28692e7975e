"""The comparison of several runs that were judged against the same original and gold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from temper.assess.evidence import Evidence, Which
from temper.errors import DataError, InputError
from temper.report.content import content
from temper.report.one import put
from temper.report.weights import Damage, damage_in

__all__ = ["check_same_models", "compare", "write_comparison"]

_OWN = ("report", "answer_against_trace")
"""What a comparison writes; a folder with other files belongs to something else."""


def check_same_models(evidences: Sequence[Evidence]) -> None:
    """Check that the runs were judged against the same weights.

    Raises:
        DataError: No evidence was given, or two runs name different weights as their original or gold.
    """
    if not evidences:
        raise DataError("nothing to compare: no evidence was given. Name at least one run folder that was assessed.")
    kinds: tuple[Which, ...] = ("original", "gold")
    for which in kinds:
        seen: dict[str, list[str]] = {}
        for evidence in evidences:
            if which in evidence.models:
                seen.setdefault(evidence.models[which].weights_hash, []).append(evidence.name)
        if len(seen) > 1:
            groups = "; ".join(f"{', '.join(names)}: {weights[:12]}" for weights, names in seen.items())
            raise DataError(
                f"these runs were judged against different {which} models ({groups}). Numbers are comparable only against the same one: "
                f"assess them again with one evaluate.{which}, or compare each group on its own."
            )


def write_comparison(
    evidences: Sequence[Evidence], folder: Path, *, title: str | None = None, damages: Sequence[Damage | str | None] = ()
) -> Path:
    """Write the comparison of several runs.

    Args:
        evidences: What is known of each run.
        folder: Where the files are written.
        title: Heading of the report.
        damages: What each run did to the weights, or why it is not known; none is known where left out.

    Returns:
        The path of report.html.

    Raises:
        DataError: The runs were judged against different original or gold models.
    """
    check_same_models(evidences)
    return put(content(evidences, title or f"{len(evidences)} runs compared", damages), folder)


def _refuse_foreign(out: Path) -> None:
    """Refuse to write over a run's own report, among somebody's files, or where a file is."""
    if out.is_dir():
        others = sorted(item.name for item in out.iterdir() if item.is_file() and item.name[:1] != "." and item.stem not in _OWN)
        if not others:
            return
        raise InputError(
            f"{out}: is not the folder of a comparison (holds {', '.join(others[:3])}). Give another folder as --out."
        )
    if out.exists():
        raise InputError(f"{out}: is a file. Give a folder as --out.")


def compare(folders: Sequence[Path], out: Path, *, title: str | None = None) -> Path:
    """Write the comparison of several run folders.

    Returns:
        The path of report.html in ``out``.

    Raises:
        InputError: Fewer than two folders, or ``out`` is no place for a comparison.
        DataError: A folder holds no evidence, or the runs were judged on different items or against different models.
    """
    from temper.assess.compare import check_same_items  # reads records with pyarrow, which loads only here

    _refuse_foreign(Path(out))
    evidences = [Evidence.read(Path(folder) / "evidence.json") for folder in folders]
    check_same_models(evidences)
    check_same_items([Path(folder) for folder in folders])
    return write_comparison(evidences, Path(out), title=title, damages=[damage_in(Path(folder)) for folder in folders])
