"""Models: loading and saving, which weights may change, the trunk that stops at the layer that is read, generation.

Losses and the training loop are in `temper.train`. Importing this package loads no torch; its modules do.
"""

__all__: list[str] = []
