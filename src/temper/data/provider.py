"""What makes the rows of a role out of the rows of a source: e.g. reasoning traces out of documents.

A provider is settings that the registry knows by name, and one function from rows to rows. Who reads the rows does not know it: a
recipe names it (`data.trace.provider`), so the room that makes traces and the room that unlearns them never meet. Another package adds
one by deriving from `RowProvider` and naming it in an entry point of the group `temper.provider`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from temper.data.tokenise import Dropped
from temper.errors import InputError
from temper.recipe import DataSource, NamedSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Made", "Request", "RowProvider"]


@dataclass
class Request:
    """What a provider may use.

    Attributes:
        role: The role that the rows are for, named in messages.
        source: The source as the recipe has it: which columns of `rows` mean what, and how a prompt is rendered.
        rows: The rows that were read from it, with an `id` each.
        tokenizer: Of the model that trains.
        seed: Of the run.
        max_length: Tokens that a row may have.
        context: Tokens that the model can read; None where its configuration does not say.
        load: Returns the model from before, loaded when it is first asked for; None while nothing may be made, as in a plan: no model is
            loaded and no function or service is called.
        identity: What tells that model apart: a hash of its weights or a commit; None where nothing does.
        folder: Where made rows are kept, by the content of the whole source: the same rows are not made twice, and a source of which one row
            changed, came or went is made again as a whole.
        progress: Called as (stage, done, total, note).
    """

    role: str
    source: DataSource
    rows: Sequence[dict[str, Any]]
    tokenizer: PreTrainedTokenizerBase
    seed: int
    max_length: int
    context: int | None = None
    load: Callable[[], Any] | None = None
    identity: str | None = None
    folder: Path | None = None
    progress: Callable[[str, int, int, str], None] | None = None


@dataclass(frozen=True)
class Made:
    """What a provider gives back.

    Attributes:
        rows: With an `id` each, in the columns that `source` names.
        source: How they are encoded; the one asked with, changed where the made rows need it (e.g. template plain).
        dropped: Rows of the source of which nothing came, each with the reason.
        facts: What is worth a line in the record of the run: counts, lengths, where the rows are kept.
        is_sketch: Whether the rows only stand for those that are still to be made, as in a plan.
    """

    rows: list[dict[str, Any]]
    source: DataSource
    dropped: list[Dropped] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    is_sketch: bool = False


class RowProvider(NamedSettings):
    """Base of all providers.

    Attributes:
        needs_model: Whether rows are made by the model from before.
    """

    needs_model: ClassVar[bool] = False

    def make(self, request: Request) -> Made:
        """Return the rows.

        Where `request.load` is None and rows would have to be made, rows that were kept are returned if they are all there; else a
        sketch: as many rows, of the length that is to be expected.

        Raises:
            DataError: The source does not hold what is needed, or nothing is left.
        """
        raise InputError(f"provider {self.name} makes no rows")
