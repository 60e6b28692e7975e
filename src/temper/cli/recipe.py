"""`temper recipe`: show, validate and describe recipes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from temper.cli.console import DebugFlag, JsonFlag, emit, verb

__all__ = ["app"]

app = typer.Typer(help="Show, validate and describe recipes.", no_args_is_help=True)

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or a shipped recipe such as tiny/npo.yaml.")]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides of any field by its dotted path.")
]


@app.command()
@verb
def show(path: RecipeArgument, overrides: OverridesArgument = None, json: JsonFlag = False, debug: DebugFlag = False) -> None:
    """Print a recipe with every default filled in.

    Example: temper recipe show tiny/npo.yaml method.beta=0.5
    """
    from temper.recipe import dump, load

    loaded = load(path, overrides or [])
    if json:
        emit(loaded.model_dump(mode="json"))
    else:
        typer.echo(dump(loaded), nl=False)


@app.command()
@verb
def validate(path: RecipeArgument, overrides: OverridesArgument = None, json: JsonFlag = False, debug: DebugFlag = False) -> None:
    """Check a recipe and list every problem at once; reads no data and no model.

    Example: temper recipe validate my.yaml
    """
    from temper.errors import RecipeError
    from temper.recipe import load, recipe_hash
    from temper.unlearn.checks import objective_of

    result: dict[str, Any]
    try:
        loaded = load(path, overrides or [])
        if loaded.method is not None or loaded.train is not None:
            objective_of(loaded)
        result = {"valid": True, "hash": recipe_hash(loaded), "problems": []}
    except RecipeError as error:
        if not json:
            raise
        emit({"valid": False, "problems": error.problems})
        raise typer.Exit(error.exit_code) from None
    if json:
        emit(result)
    else:
        typer.echo(f"{path}: valid (hash {result['hash'][:12]})")


@app.command()
@verb
def schema(debug: DebugFlag = False) -> None:
    """Print the JSON schema of recipes, for editors.

    Example: temper recipe schema > recipe.schema.json
    """
    from temper.recipe import json_schema

    emit(json_schema())
