"""Training: loss terms (one file each), the schedule that says which act, the engine that plans forwards, the trainer.

What a set of terms is *for* belongs to the capabilities (`temper.unlearn`, `temper.align`); data and models to the rooms
below. Importing this package loads no torch; its modules do.
"""

__all__: list[str] = []
