"""From scores to an adapter: which modules get one, and of what rank.

    d_m = selected weights of module m / its weights;   the share `keep` of modules with the largest d_m gets an adapter
    r_m ∝ d_m,  Σ r_m = rank · (number of adapted modules),  1 ≤ r_m ≤ the smaller side of the matrix

So a scored adapter has the ranks of a plain one on the same number of modules, spent where the weights that forget lie. Left-over ranks
go to the largest remainders, ties to the first name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["ranks_of"]


def ranks_of(densities: Mapping[str, float], largest: Mapping[str, int], *, rank: int, keep: float) -> dict[str, int]:
    """Return module to its rank; a module that gets no adapter is left out.

    Args:
        densities: Module to the share of its weights that is selected.
        largest: Module to the rank it can have at most.
        rank: Mean rank of the modules that get an adapter.
        keep: Share of the modules that do, at least one; those of which nothing is selected never do.

    Example:
        >>> ranks_of({"a": 0.6, "b": 0.2, "c": 0.0, "d": 0.1}, dict.fromkeys("abcd", 16), rank=4, keep=0.5)
        {'a': 6, 'b': 2}
    """
    order = sorted((name for name in densities if densities[name] > 0), key=lambda name: (-densities[name], name))
    chosen = order[: max(1, math.floor(round(keep * len(densities), 6)))]
    ranks = dict.fromkeys(chosen, 0)
    left, open_ = rank * len(chosen), list(chosen)
    while left > 0 and open_:
        # what a small matrix cannot take goes to the others, in the same proportion
        total = sum(densities[name] for name in open_)
        shares = {name: left * densities[name] / total for name in open_}
        full = [name for name in open_ if ranks[name] + shares[name] >= largest[name]]
        if full:
            for name in full:
                left -= largest[name] - ranks[name]
                ranks[name] = largest[name]
            open_ = [name for name in open_ if name not in full]
            continue
        for name in open_:
            ranks[name] += math.floor(shares[name])
        spare = left - sum(math.floor(shares[name]) for name in open_)
        for name in sorted(open_, key=lambda name: (-(shares[name] - math.floor(shares[name])), name))[:spare]:
            ranks[name] += 1
        left = 0
    return {name: max(1, ranks[name]) for name in chosen}
