"""Every error a user can meet, as one tree.

    TemperError
    ├── InputError (ValueError)             the user's input is wrong; exit code 2
    │   ├── RecipeError                     one or more fields of a recipe
    │   ├── DataError                       a file, a row or a column
    │   └── ModelError                      a model folder, a layer, a parameter pattern
    ├── MissingExtraError (ImportError)     an optional package is not installed; exit code 2
    ├── RequirementNotMet                   an assessment requirement failed; exit code 1
    └── RunError (RuntimeError)             something failed while running; exit code 3
        ├── JobsFailed                      some of several jobs failed (temper.jobs)
        ├── RunLocked                       another process works in the run folder
        └── DiskFull                        no space left where the run writes

A message says what is wrong, the value seen, what is allowed and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = [
    "DataError",
    "DiskFull",
    "InputError",
    "MissingExtraError",
    "ModelError",
    "RecipeError",
    "RequirementNotMet",
    "RunError",
    "RunLocked",
    "TemperError",
    "nearest",
]


class TemperError(Exception):
    """Base of all errors raised on purpose by this library.

    Attributes:
        exit_code: What the command line returns for it.
    """

    exit_code = 3


class InputError(TemperError, ValueError):
    """The user's input is wrong."""

    exit_code = 2


class RecipeError(InputError):
    """One or more fields of a recipe are wrong; all of them are listed.

    Args:
        problems: One line a problem, each starting with the dotted path of its field.
        source: The file or name the recipe came from.
    """

    def __init__(self, problems: Sequence[str], source: str = "recipe") -> None:
        self.problems = list(problems)
        self.source = source
        count = f"{len(self.problems)} problem" + ("s" if len(self.problems) != 1 else "")
        super().__init__(f"{source}: {count}\n" + "\n".join(f"  - {line}" for line in self.problems))


class DataError(InputError):
    """A data file, a row of it or a column of it is wrong."""


class ModelError(InputError):
    """A model folder, a layer index or a parameter pattern is wrong."""


class MissingExtraError(TemperError, ImportError):
    """An optional package is needed and not installed.

    Args:
        package: The package that is missing.
        extra: The extra of this project that installs it.
        purpose: What it is needed for.
    """

    exit_code = 2

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. Install it with: pip install 'temper[{extra}]'"
        )


class RequirementNotMet(TemperError):
    """An assessment ran and one of its requirements was not met."""

    exit_code = 1


class RunError(TemperError, RuntimeError):
    """Something failed while running."""


class RunLocked(RunError):
    """Another process is working in the same run folder."""


class DiskFull(RunError):
    """There is no space left where the run writes."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest allowed name, or an empty text.

    Example:
        >>> nearest("simpno", ["simnpo", "rmu"])
        " (did you mean 'simnpo'?)"
    """
    match = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f" (did you mean {match[0]!r}?)" if match else ""
