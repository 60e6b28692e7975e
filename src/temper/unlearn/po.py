"""Preference optimisation by refusal (PO, IdkNLL): train the forget questions to be answered with a refusal.

    L = γ NLL(x_f, y_idk) + α NLL(D_r),        y_idk drawn uniformly from a list, per item and epoch

Bounded and gentle, and shallow: the model learns to refuse, and may still know. A refusal is drawn from a generator
keyed by seed, epoch and item, so the draw does not depend on workers or batch size.

Source: Maini et al., TOFU (2024), "Preference optimization"; the list is our own, another can be given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from temper.draws import generator
from temper.errors import DataError
from temper.unlearn.objective import Context, Objective, Substitution

if TYPE_CHECKING:
    from temper.data import Encoded
    from temper.train.losses.term import LossTerm

__all__ = ["PreferenceOptimization", "read_refusals"]

_SHIPPED = Path(__file__).with_name("refusals.txt")


def read_refusals(path: Path) -> list[str]:
    """Return the refusals of a text file, one a line, blank lines left out.

    Raises:
        DataError: The file is missing or holds no refusal.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"method.refusals = {path}: cannot be read ({error})") from error
    found = [line for line in lines if line]
    if not found:
        raise DataError(f"method.refusals = {path}: holds no refusal. Put one on each line.")
    return found


class PreferenceOptimization(Objective):
    """Settings of PO."""

    name: ClassVar[str] = "po"
    family: ClassVar[str] = "substitution"
    retain_weight: float = Field(1.0, ge=0, description="α, the weight of the retain term.")
    refusals: str | None = Field(None, description="A text file with one refusal a line; a list of our own when left out.")
    response_format: str = Field(" {refusal}", description="How a refusal is written into a response column.")

    @field_validator("response_format")
    @classmethod
    def _holds_the_refusal(cls, value: str) -> str:
        if "{refusal}" not in value:
            raise ValueError("must contain {refusal}")
        return value

    def terms(self, context: Context) -> Sequence[LossTerm]:
        """Return descent on refusals and on retain."""
        from temper.train.losses.nll import NLL

        return [NLL("forget", self.forget_weight), NLL("retain", self.retain_weight)]

    def substitute(
        self, rows: Encoded, encode: Callable[[Sequence[tuple[int, str]]], Encoded], seed: int, base: Path
    ) -> Substitution | None:
        """Return every forget row with every refusal, and the keyed draw among them."""
        refusals = read_refusals(base / self.refusals if self.refusals else _SHIPPED)
        count = len(refusals)
        variants = encode(
            [
                (item, self.response_format.replace("{refusal}", refusal))
                for item in range(len(rows.items))
                for refusal in refusals
            ]
        )

        def remap(item: int, epoch: int) -> int:
            return item * count + int(generator(seed, "refusal", epoch, item).integers(count))

        return Substitution(variants, remap)
