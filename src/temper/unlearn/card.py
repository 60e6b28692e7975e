"""The model card of an unlearned model: what was done to it, with what, and what that does not show."""

from __future__ import annotations

import json
from typing import Any

from temper import __version__
from temper.recipe import Recipe, dump, recipe_hash

__all__ = ["model_card"]


def model_card(recipe: Recipe, facts: dict[str, Any], spent: dict[str, Any]) -> str:
    """Return the card as Markdown with the front matter that model hubs read."""
    assert recipe.method is not None
    settings = ", ".join(f"{key} = {value}" for key, value in recipe.method.model_dump().items())
    details = "\n".join(
        f"- {key.replace('_', ' ')}: {value}" for key, value in facts.items() if not isinstance(value, dict | list)
    )
    ended = f"- training {facts['stopped']['sentence']}\n" if "stopped" in facts else ""
    return f"""---
library_name: transformers
tags: [unlearning, temper]
base_model: {json.dumps(recipe.model.path)}
---
# {recipe.name}

Made with temper {__version__} by unlearning from `{recipe.model.path}` with the objective `{facts["method"]}` ({settings}).

- forget data: {", ".join(source.path for source in recipe.data["forget"])}
- retain data: {", ".join(source.path for source in recipe.data.get("retain", [])) or "none"}
{details}
{ended}- steps: {spent["steps"]}, tokens: {spent["tokens"]:,}, CPU seconds: {spent["cpu_s"]:.1f}
- seed: {recipe.seed}; recipe hash: {recipe_hash(recipe)}

## What this does not show

That a run finished does not show that the knowledge is gone. Read the evidence beside this folder (`report.html`), or make
it with `temper assess`: compare with a model retrained without the forget data, ask in other wordings, read the reasoning
traces, and try to bring the knowledge back.

## Recipe

```yaml
{dump(recipe)}```
"""
