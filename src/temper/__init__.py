"""temper: work on language models after training, with the evidence for each claim.

Rooms are imported by name (`from temper import recipe, unlearn, assess, report`); importing this package loads no torch.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("temper")
except PackageNotFoundError:  # running from a source tree that was not installed
    __version__ = "0.0.0"

__all__ = ["__version__"]
