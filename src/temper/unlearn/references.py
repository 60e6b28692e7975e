"""What of the model from before is computed once and kept by item, for the rows that a run reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from temper import processes
from temper.files import cache_folder
from temper.models.load import pad_id_of
from temper.recipe import Recipe
from temper.run import Run
from temper.train.losses.term import LossTerm
from temper.train.plan import plan_of
from temper.train.reference import RoleReference, can_be_stored, reference_of, stored_bytes
from temper.unlearn.checks import dtype_of
from temper.unlearn.prepare import Prepared

__all__ = ["needs_stored", "references_of", "used_rows"]

STORE_LIMIT: Final = 2**30
"""Bytes up to which distributions and activations of the model before are stored without being asked."""


def bytes_of(prepared: Prepared, needs: Mapping[str, frozenset[str]], used: Mapping[str, list[int]], recipe: Recipe) -> int:
    """Return the bytes that storing some needs of roles takes."""
    rows, config = prepared.all_rows(), prepared.config.get_text_config()
    return sum(
        stored_bytes(
            [rows[role].items[place] for place in used[role]],
            wanted,
            vocabulary=int(config.vocab_size),
            width=int(config.hidden_size),
            itemsize=2 if dtype_of(recipe, prepared.config) in ("bfloat16", "float16") else 4,
        )
        for role, wanted in needs.items()
    )


def needs_stored(
    recipe: Recipe, prepared: Prepared, terms: Sequence[LossTerm], used: dict[str, list[int]]
) -> tuple[dict[str, frozenset[str]], int]:
    """Return role to what is computed once and stored, and the bytes that takes; what is not among it is computed at each step."""
    assert recipe.train is not None
    plan, mode = plan_of(terms), recipe.train.reference
    chosen: dict[str, frozenset[str]] = {}
    total = 0
    for role, needs in plan.roles.items():
        heavy = frozenset(need for need in needs if can_be_stored(need, role, terms))
        size = bytes_of(prepared, {role: heavy}, used, recipe)
        pays = size <= STORE_LIMIT and len(prepared.pairs) > len(used[role])
        keep = mode == "store" or recipe.train.sharding == "fsdp2" or (mode == "auto" and pays)
        chosen[role] = (needs & {"ref_row_nll"}) | (heavy if keep else frozenset())
        total += size if keep else 0
    return {role: needs for role, needs in chosen.items() if needs}, total


def used_rows(prepared: Prepared) -> dict[str, list[int]]:
    """Return for each name of a batch the places of the rows that the run reads."""
    dataset = prepared.dataset()
    seen: dict[str, set[int]] = {}
    for index in range(len(dataset)):
        for role, row in dataset[index].items():
            seen.setdefault(role, set()).add(row)
    return {role: sorted(places) for role, places in seen.items()}


def _store(run: Run, identity: dict[str, Any]) -> Path:
    """Return where references are kept."""
    # without a hash of the weights another model could be mistaken for this one, so the store stays in the run
    return cache_folder() / "reference" if identity.get("weights") else run.folder / "reference"


def references_of(
    run: Run,
    prepared: Prepared,
    teacher: Any,
    needs: dict[str, frozenset[str]],
    used: dict[str, list[int]],
    identity: dict[str, Any],
) -> dict[str, RoleReference]:
    """Return what the weights from before give; the first process computes what no store holds."""
    rows = prepared.all_rows()
    folder = _store(run, identity)
    with processes.first_goes_ahead():
        return {
            role: reference_of(
                teacher,
                rows[role].items,
                used[role],
                wanted,
                pad_id=pad_id_of(prepared.tokenizer),
                identity=identity,
                folder=folder,
                progress=run.progress,
            )
            for role, wanted in needs.items()
        }
