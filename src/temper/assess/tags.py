"""Other tags than `<think>` and `</think>`: everything in this room reads and writes those two, and one place translates.

The tokenizer of an assessment is wrapped: text on its way to ids is written with the model's own tags, text that comes from ids is read
with the usual ones. Rows are encoded as they stand and then read the same way. So no metric, judge, mode or probe knows the difference,
and completions are shown with the usual tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from temper.assess.metrics.thoughts import CLOSE, OPEN

if TYPE_CHECKING:
    from temper.data import Encoded
    from temper.recipe import EvaluateSection

__all__ = ["Tags", "TranslatingTokenizer", "tags_of"]


@dataclass(frozen=True)
class Tags:
    """How a model writes the beginning and the end of a thought.

    Example:
        >>> tags = Tags("[think]", "[/think]")
        >>> tags.read("[think] well [/think] 7"), tags.write("<think> well </think> 7")
        ('<think> well </think> 7', '[think] well [/think] 7')
    """

    open: str
    close: str

    @property
    def are_usual(self) -> bool:
        """Return whether nothing has to be translated."""
        return (self.open, self.close) == (OPEN, CLOSE)

    def read(self, text: str) -> str:
        """Return a model's text with the usual tags."""
        return text.replace(self.close, CLOSE).replace(self.open, OPEN)

    def write(self, text: str) -> str:
        """Return a text with the model's tags."""
        return text.replace(CLOSE, self.close).replace(OPEN, self.open)

    def read_rows(self, encoded: Encoded) -> Encoded:
        """Return encoded rows whose texts have the usual tags; ids and labels stay."""
        if self.are_usual:
            return encoded
        items = [replace(item, prompt=self.read(item.prompt), response=self.read(item.response)) for item in encoded.items]
        return replace(encoded, items=items)

    def wrap(self, tokenizer: Any) -> Any:
        """Return a tokenizer whose texts have the usual tags."""
        return tokenizer if self.are_usual else TranslatingTokenizer(tokenizer, self)

    @property
    def key(self) -> str:
        """Return what tells kept texts with other tags apart; empty for the usual ones."""
        return "" if self.are_usual else f"/{self.open}/{self.close}"


def tags_of(settings: EvaluateSection) -> Tags:
    """Return the tags of an evaluation."""
    return Tags(settings.open_tag, settings.close_tag)


class TranslatingTokenizer:
    """A tokenizer that takes and gives texts with the usual tags; all else is the wrapped one's.

    Args:
        tokenizer: The model's.
        tags: How it writes thoughts.
    """

    def __init__(self, tokenizer: Any, tags: Tags) -> None:
        self._tokenizer = tokenizer
        self._tags = tags

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, text: str | Sequence[str], *args: Any, **kwargs: Any) -> Any:
        """Return the ids of texts, written with the model's tags."""
        written = self._tags.write(text) if isinstance(text, str) else [self._tags.write(one) for one in text]
        return self._tokenizer(written, *args, **kwargs)

    def decode(self, *args: Any, **kwargs: Any) -> str:
        """Return the text of ids, read with the usual tags."""
        return self._tags.read(str(self._tokenizer.decode(*args, **kwargs)))
