"""What steers a generation while it runs: the noise that makes a greedy choice a draw, and the texts at which a row is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from temper.draws import generator

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["GumbelNoise", "StopTexts", "cut_at_end", "decoded", "noise_of"]


def cut_at_end(ids: Iterable[int], ends: frozenset[int], pad: int | None) -> list[int]:
    """Return the ids before the first end token, without padding.

    Example:
        >>> cut_at_end([5, 0, 6, 2, 7], frozenset({2}), 0)
        [5, 6]
    """
    kept = []
    for token in ids:
        if token in ends:
            break
        if token != pad:
            kept.append(token)
    return kept


def decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Return the text of ids as it stands, special tokens included."""
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


class GumbelNoise:
    """A logits processor that makes the greedy choice an exact draw from softmax(z/T).

    Args:
        seed: Of all draws.
        keys: One a row of the batch.
        width: Columns of the prompts.
        temperature: T.
    """

    def __init__(self, seed: int, keys: Sequence[tuple[str, int, int]], width: int, temperature: float) -> None:
        self._seed = seed
        self._keys = keys
        self._width = width
        self._temperature = temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return z/T + g, (B, V), of which the largest is the draw."""
        step, vocabulary = input_ids.shape[1] - self._width, scores.shape[1]
        # in float64: float32 noise is too coarse in the tail that decides among many unlikely tokens
        noise_BV = np.stack([generator(self._seed, "sample", *key, step).gumbel(size=vocabulary) for key in self._keys])
        return scores.double() / self._temperature + torch.from_numpy(noise_BV).to(scores.device)


def noise_of(keys: Sequence[tuple[str, int, int]], seed: int, temperature: float) -> Callable[[Sequence[int], int], GumbelNoise]:
    """Return what makes the noise of a batch from the places of its prompts and its width."""
    return lambda rows, width: GumbelNoise(seed, [keys[row] for row in rows], width, temperature)


class StopTexts:
    """A stopping criterion: a row is done once its text holds a stop text. It saves steps; what it leaves is cut in any case.

    Only the last tokens are read, and all of them where these hold a stop text: a token holds at least a byte, so a stop text that
    has just ended lies within as many tokens as it has bytes. A few more keep a character that the first of them splits out of it.

    Attributes:
        lengths: Row to the number of its tokens when it was done.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], width: int, ends: frozenset[int], fill: int | None
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._width = width
        self._ends = ends
        self._fill = fill
        self._read = max(len(word.encode()) for word in stop) + 4
        self.lengths: dict[int, int] = {}

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor | None, **kwargs: Any) -> torch.Tensor:
        """Return for each row whether it is done, (B,)."""
        written = input_ids[:, self._width :]
        for row, tail in enumerate(written[:, -self._read :].tolist()):
            if row not in self.lengths and self._holds_stop(tail) and self._holds_stop(written[row].tolist()):
                self.lengths[row] = written.shape[1]
        return torch.tensor([row in self.lengths for row in range(input_ids.shape[0])], device=input_ids.device)

    def _holds_stop(self, ids: Sequence[int]) -> bool:
        text = decoded(self._tokenizer, cut_at_end(ids, self._ends, self._fill))
        return any(word in text for word in self._stop)
