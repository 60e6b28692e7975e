"""Ways to decode beside the rows' own: the response is made to begin with a thought that is not the model's, one file each.

To add one, derive from `Decoding` and name it in `temper.registry`, or in an entry point of the group `temper.decoding`.
"""

from temper.assess.decoding.mode import Decoding

__all__ = ["Decoding"]
