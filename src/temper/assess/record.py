"""What one model gives to the scored tokens of one item; see `temper.assess.records` for how it is taken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Record"]


@dataclass(frozen=True, eq=False)
class Record:
    """What one model gives to the T scored tokens of one item.

    Attributes:
        id: Name of the item.
        logp: (T,) float32.
        mu: (T,) float32.
        var: (T,) float32, at least 0.
        hit: (T,) bool.
        token: (T,) int32.
        is_eos: (T,) bool.
    """

    id: str
    logp: NDArray[np.float32]
    mu: NDArray[np.float32]
    var: NDArray[np.float32]
    hit: NDArray[np.bool_]
    token: NDArray[np.int32]
    is_eos: NDArray[np.bool_]

    @property
    def failed(self) -> bool:
        """Return whether the model gave something that is no finite number; such an item is counted and never scored."""
        return not (np.isfinite(self.logp).all() and np.isfinite(self.mu).all() and np.isfinite(self.var).all())
