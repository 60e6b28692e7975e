"""The command `temper` and its verbs."""

from __future__ import annotations

from typing import Annotated

import typer

from temper import __version__
from temper.cli import apply, assess, compare, demo, doctor, methods, recipe, report, unlearn, world

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
app.command("unlearn")(unlearn.unlearn)
app.command("apply")(apply.apply)
app.command("assess")(assess.assess)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.add_typer(recipe.app, name="recipe")
app.command("methods")(methods.methods)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Run the command line."""
    app()
