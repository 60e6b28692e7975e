"""Which entries of a tensor differ from those of another, bit for bit, and where they lie in the fewest bytes.

Bits are compared, not values: 0.0 and -0.0 differ, a NaN equals itself. Of n entries of w bytes, c of which differ, are kept

    whole   n w                 all entries
    bits    ⌈n/8⌉ + c w         one bit an entry, the first in the highest bit of a byte, and the entries that differ
    index   4 c + c w           the places of those that differ, in rising order (int32), and the entries

whichever is smallest; of equal ones the first.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import numpy as np
import torch
from torch import Tensor

__all__ = ["FORMS", "Form", "differing", "pack", "positions_shape", "smallest", "unpack"]

Form = Literal["whole", "bits", "index"]
FORMS: Final = get_args(Form)

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_LARGEST_INDEX: Final = 2**31 - 1


def differing(before: Tensor, after: Tensor) -> Tensor:
    """Return where two tensors of one shape and dtype differ in their bits: a boolean tensor of that shape.

    Example:
        >>> differing(torch.tensor([0.0, 1.0, float("nan")]), torch.tensor([-0.0, 1.0, float("nan")])).tolist()
        [True, False, False]
    """
    kind = _INTEGERS[before.element_size()]
    one, other = (
        tensor.contiguous().view(kind) if tensor.dim() else tensor.reshape(1).view(kind)[0] for tensor in (before, after)
    )
    return one != other


def smallest(changed: int, entries: int, width: int) -> Form:
    """Return the form that takes the fewest bytes.

    Args:
        changed: How many entries differ.
        entries: How many there are.
        width: Bytes an entry takes.

    Example:
        >>> smallest(1, 1000, 4), smallest(100, 1000, 4), smallest(1000, 1000, 4)
        ('index', 'bits', 'whole')
    """
    sizes: dict[Form, int] = {"whole": entries * width, "bits": (entries + 7) // 8 + changed * width}
    if entries <= _LARGEST_INDEX:
        sizes["index"] = (4 + width) * changed
    return min(sizes, key=lambda form: sizes[form])


def positions_shape(form: Form, changed: int, entries: int) -> tuple[torch.dtype, tuple[int, ...]]:
    """Return dtype and shape of what `pack` returns."""
    return (torch.uint8, ((entries + 7) // 8,)) if form == "bits" else (torch.int32, (changed,))


def pack(form: Form, mask: Tensor) -> Tensor:
    """Return the places of the True entries of a mask, as bits or as an index."""
    flat = mask.reshape(-1)
    if form == "bits":
        return torch.from_numpy(np.packbits(flat.numpy()))
    return flat.nonzero().reshape(-1).to(torch.int32)


def unpack(form: Form, packed: Tensor, changed: int, entries: int) -> Tensor:
    """Return the places that were packed, in rising order: int64, (changed,).

    Raises:
        ValueError: There are not that many, or they do not lie in a tensor of that many entries.
    """
    dtype, shape = positions_shape(form, changed, entries)
    if packed.dtype != dtype or tuple(packed.shape) != shape:
        raise ValueError(f"its places are {packed.dtype} of shape {list(packed.shape)}, expected {dtype} of shape {list(shape)}")
    if form == "bits":
        found = np.flatnonzero(np.unpackbits(packed.numpy()))
        places = torch.from_numpy(found.astype(np.int64, copy=False))
    else:
        places = packed.to(torch.int64)
    if len(places) != changed:
        raise ValueError(f"it marks {len(places)} entries, expected {changed}")
    if changed and not (int(places[0]) >= 0 and int(places[-1]) < entries and bool((places.diff() > 0).all())):
        raise ValueError(f"its places are not in rising order below {entries}")
    return places
