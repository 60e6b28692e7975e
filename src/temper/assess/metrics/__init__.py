"""Metrics: one file each, pure functions of records and continuations. Scoring models belongs to the room above them.

A metric needs its file here, its test, and its line in `temper.registry`.
"""

__all__: list[str] = []
