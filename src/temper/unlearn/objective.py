"""What every unlearning objective is: settings, the roles it reads, and a few weighted loss terms.

    L(θ) = γ F(θ; D_f) + α R(θ; D_r)                     γ = forget_weight, α = retain_weight

An objective is settings first, checked with the recipe without loading torch; `terms` builds its losses when the model
is there. Adding one: a file like `npo.py`, a line in the registry, a test, a paragraph in docs/objectives.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from temper.errors import InputError
from temper.recipe import NamedSettings

if TYPE_CHECKING:
    from temper.data import Encoded
    from temper.train.dataset import Remap
    from temper.train.losses.term import LossTerm

__all__ = ["Context", "Objective", "Substitution"]


@dataclass
class Context:
    """What an objective may ask about the model and the data while it builds its terms.

    Attributes:
        seed: Seed of the run.
        hidden_size: Width D of the residual stream.
        check_layer: Returns a layer counted from 0, or raises a ModelError that names the field.
        median_token_norm: (layer, role) to the median norm of that block's output over the role's tokens.
        facts: What the objective found out; it goes into the run record.
    """

    seed: int
    hidden_size: int
    check_layer: Callable[[int, str], int]
    median_token_norm: Callable[[int, str], float]
    facts: dict[str, Any]


@dataclass
class Substitution:
    """Rows appended behind a role's own, and which of them stands for an item in an epoch."""

    rows: Encoded
    remap: Remap


class Objective(NamedSettings):
    """Base of all unlearning objectives.

    Attributes:
        roles: Roles it reads; each needs data.
        family: Word for the run record: ascent, preference, representation, substitution.
    """

    roles: ClassVar[tuple[str, ...]] = ("forget", "retain")
    family: ClassVar[str] = "ascent"

    forget_weight: float = Field(1.0, ge=0, description="γ, the weight of the forget term.")

    def check(self, n_layers: int) -> None:
        """Refuse settings that a model of so many blocks cannot meet; called before its weights are loaded.

        Raises:
            ModelError: A layer is out of range.
        """

    def terms(self, context: Context) -> Sequence[LossTerm]:
        """Return the weighted loss terms."""
        raise InputError(f"objective {self.name} defines no terms")

    def substitute(
        self, rows: Encoded, encode: Callable[[Sequence[tuple[int, str]]], Encoded], seed: int, base: Path
    ) -> Substitution | None:
        """Return other responses for the forget rows, or None to train on the rows as they are.

        `encode` takes (item, response) pairs in the order of the items and returns one row for each.
        """
        return None
