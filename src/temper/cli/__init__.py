"""The command line: one file a verb. It parses, calls the library and prints; it holds no logic of its own.

Results go to standard output, logs and progress to standard error. No verb loads torch before it needs it.
"""

from temper.cli.app import main

__all__ = ["main"]
