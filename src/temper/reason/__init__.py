"""Thoughts: the text between the tags, where it comes from, and how much of it is needed.

`traces` makes reasoning traces about a text, for whoever reads the role `trace`; it meets unlearning in a recipe alone.
"""

__all__: list[str] = []
