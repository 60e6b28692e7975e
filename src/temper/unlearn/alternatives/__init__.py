"""Other responses to the questions of a role: refusals, a column of the data, or what the model itself would say.

A source is settings, and one function from (item, epoch) pairs to responses. Another package adds one by deriving from `Alternatives`
and naming it in an entry point of the group `temper.alternatives`: that is how a callable is given.
"""

from temper.unlearn.alternatives.source import Alternatives, Draft

__all__ = ["Alternatives", "Draft"]
