"""Rows that are made before training starts, by what a source names as its provider: e.g. traces by the model from before."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temper.data.provider import Made, Request, RowProvider
from temper.errors import DataError
from temper.files import cache_folder
from temper.models.load import load_config, load_model, model_identity
from temper.recipe import DataSource, Recipe

if TYPE_CHECKING:
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

    def request(self, role: str, source: DataSource, rows: Sequence[dict[str, Any]], tokenizer: Any, max_length: int) -> Request:
        """Return what the provider of a source may use."""
        provider = source.provider
        if not isinstance(provider, RowProvider):
            raise DataError(f"data.{role}.provider: {type(provider).__name__} does not derive from RowProvider")
        model = self.recipe.model
        config = load_config(model.path, section=model, world=self.recipe.world)
        identity = model_identity(model, self.recipe.world) if provider.needs_model else None
        is_shared = identity is not None or not provider.needs_model
        # a name is no identity, but keeps two models apart that share a folder
        named = f"{model.path} {model.revision or 'main'} {model.dtype} {model.attention}" if not is_shared else None
        return Request(
            role=role,
            source=source,
            rows=rows,
            tokenizer=tokenizer,
            seed=self.recipe.seed,
            max_length=max_length,
            context=getattr(config.get_text_config(), "max_position_embeddings", None),
            load=self._load if self.folder is not None else None,
            identity=identity or named,
            folder=cache_folder() / "made" if is_shared else self.folder,
            progress=self.progress,
        )

    def make(self, role: str, source: DataSource, rows: Sequence[dict[str, Any]], tokenizer: Any, max_length: int) -> Made:
        """Return the rows that the provider of a source makes of its rows."""
        request = self.request(role, source, rows, tokenizer, max_length)
        provider: Any = source.provider
        made: Made = provider.make(request)
        self.facts.setdefault(role, []).append({"provider": provider.name, "rows": len(made.rows), **made.facts})
        if made.is_sketch:
            self.sketched.add(role)
        return made

    def _load(self) -> Any:
        if self._model is None:
            self._model = load_model(self.recipe.model.path, section=self.recipe.model, world=self.recipe.world)
        return self._model

    def close(self) -> None:
        """Let the model go."""
        self._model = None
        gc.collect()
