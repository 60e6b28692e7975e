"""Rows that are made before training starts, by what a source names as its provider: e.g. traces by the model from before."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temper.errors import DataError
from temper.recipe import DataSource, Recipe

if TYPE_CHECKING:
    from temper.data.provider import Made
    from temper.run import Progress

__all__ = ["Workshop"]


@dataclass
class Workshop:
    """Makes the rows of the sources that name a provider.

    Attributes:
        recipe: The recipe.
        folder: Where made rows are kept where the model cannot be told apart; None while nothing may be made.
        progress: Called as rows are made.
        facts: Role to what the providers of its sources say of their work.
        sketched: Roles whose rows only stand for those that are still to be made.
    """

    recipe: Recipe
    folder: Path | None = None
    progress: Progress | None = None
    facts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    sketched: set[str] = field(default_factory=set)
    _model: Any = None

    def make(self, role: str, source: DataSource, rows: Sequence[dict[str, Any]], tokenizer: Any, max_length: int) -> Made:
        """Return the rows that the provider of a source makes of its rows."""
        from temper.data.provider import Request, RowProvider
        from temper.files import cache_folder
        from temper.models.load import load_config, model_identity

        provider = source.provider
        if not isinstance(provider, RowProvider):
            raise DataError(f"data.{role}.provider: {type(provider).__name__} does not derive from RowProvider")
        identity = model_identity(self.recipe.model, self.recipe.world) if provider.needs_model else None
        kept = cache_folder() / "made" if identity is not None or not provider.needs_model else self.folder
        config = load_config(self.recipe.model.path, section=self.recipe.model, world=self.recipe.world)
        request = Request(
            role=role,
            source=source,
            rows=rows,
            tokenizer=tokenizer,
            seed=self.recipe.seed,
            max_length=max_length,
            context=getattr(config.get_text_config(), "max_position_embeddings", None),
            load=self._load if self.folder is not None else None,
            identity=identity,
            folder=kept,
            progress=self.progress,
        )
        made = provider.make(request)
        self.facts.setdefault(role, []).append({"provider": provider.name, "rows": len(made.rows), **made.facts})
        if made.is_sketch:
            self.sketched.add(role)
        return made

    def _load(self) -> Any:
        from temper.models.load import load_model

        if self._model is None:
            self._model = load_model(self.recipe.model.path, section=self.recipe.model, world=self.recipe.world)
        return self._model

    def close(self) -> None:
        """Let the model go."""
        self._model = None
        gc.collect()
