"""What every verb shares: where output goes, how progress is shown, how errors become exit codes.

Exit codes: 0 done, 1 a requirement was not met, 2 the input was wrong, 3 something failed while running, 130 interrupted.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

from temper.errors import TemperError
from temper.run import Progress

__all__ = ["DebugFlag", "JsonFlag", "emit", "say", "shown_progress", "verb"]

P = ParamSpec("P")
T = TypeVar("T")

JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
DebugFlag = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def emit(value: Any) -> None:
    """Print a JSON value on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def say(text: str) -> None:
    """Print a line for people on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def quiet_libraries() -> None:
    """Keep the neighbours' own bars and notices out of the terminal, and their pings off the network."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")


def verb(function: Callable[P, T]) -> Callable[P, T]:
    """Turn errors of a verb into one clear message and its exit code; a traceback only with --debug."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        quiet_libraries()
        debug = bool(kwargs.get("debug"))
        try:
            return function(*args, **kwargs)
        except TemperError as error:
            if debug:
                raise
            say(f"error: {error}")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            say("\nstopped. Give the same command again to go on: what was finished is kept.")
            raise typer.Exit(130) from None
        except (typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:
            raise typer.Exit(0) from None
        except Exception as error:
            if debug:
                raise
            say(
                f"error: {type(error).__name__}: {error}\nThis was not foreseen. Run again with --debug and report what it shows."
            )
            raise typer.Exit(3) from None

    return wrapped


class _PlainLines:
    """One line a stage when it begins, at every fifth and when it ends: readable in a log file."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._begun: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        self._begun.setdefault(stage, now)
        fifth = 5 * done // max(total, 1)
        if self._last.get(stage) == fifth:
            return
        self._last[stage] = fifth
        if done:
            say(f"{stage}: {done}/{total} ({now - self._begun[stage]:.1f} s){' ' + note if note else ''}")
        if done >= total:
            self._last.pop(stage, None)
            self._begun.pop(stage, None)


@contextmanager
def shown_progress(silent: bool = False) -> Iterator[Progress | None]:
    """Give a progress function: bars on a terminal, plain lines elsewhere, None when silent."""
    if silent:
        yield None
        return
    if not sys.stderr.isatty():
        yield _PlainLines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int, note: str = "") -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, note=note)
            bars.update(tasks[stage], completed=done, total=total, note=note)

        yield show
