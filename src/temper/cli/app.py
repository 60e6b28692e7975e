"""The command `temper` and its verbs."""

from __future__ import annotations

import atexit
import os
import sys
from typing import Annotated

import typer

from temper import __version__, processes
from temper.cli import apply, assess, compare, demo, doctor, mask, merge, methods, recipe, report, traces, unlearn, weigh, world

__all__ = ["app", "main"]

app = typer.Typer(
    name="temper",
    help="Work on language models after training, with the evidence for each claim. Today: make one forget, and show whether it did.",
    epilog="Start with: temper demo. A recipe (YAML) decides a run; key=value overrides any of its fields.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"temper {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass


app.command("demo")(demo.demo)
app.add_typer(world.app, name="world")
app.command("traces")(traces.traces)
app.command("weigh")(weigh.weigh)
app.command("unlearn")(unlearn.unlearn)
app.command("apply")(apply.apply)
app.add_typer(mask.app, name="mask")
app.command("merge")(merge.merge)
app.command("assess")(assess.assess)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.add_typer(recipe.app, name="recipe")
app.command("methods")(methods.methods)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Run the command line."""
    if processes.count() == 1:
        app()
        return
    # torch 2.13: taking gloo's threads down while Python ends aborts a process now and then ("terminate called without an active
    # exception"), and torchrun would take that for a failed run. What Python has to do at its end is done, then the process leaves.
    code: int | str | None = 0
    try:
        app()
    except SystemExit as ended:
        code = ended.code
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
