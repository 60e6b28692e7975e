"""Loss terms: pure functions of model outputs on one role's batch, one file each.

A term says what it `needs` and never calls a model. Adding one: a file here, a line in an objective, a test.
"""

__all__: list[str] = []
