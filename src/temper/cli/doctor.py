"""`temper doctor`: what a bug report needs and what is missing for which extra."""

from __future__ import annotations

import shutil
from typing import Any

import typer

from temper.cli.console import DebugFlag, JsonFlag, emit, verb

__all__ = ["doctor"]

_EXTRAS = {"dev": ["hypothesis", "mypy", "pytest", "ruff"], "docs": ["mkdocs", "material"]}


def _examined() -> dict[str, Any]:
    import importlib.util

    import psutil
    import torch

    from temper.files import cache_folder
    from temper.run import environment

    cache = cache_folder()
    nearest = next(folder for folder in (cache, *cache.parents) if folder.exists())
    size = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()) if cache.is_dir() else 0
    devices = (
        [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {
        **environment(),
        "devices": devices or ["cpu"],
        "torch_threads": torch.get_num_threads(),
        "memory_gib": {
            "total": round(psutil.virtual_memory().total / 2**30, 1),
            "free": round(psutil.virtual_memory().available / 2**30, 1),
        },
        "cache": {
            "folder": str(cache),
            "mib": round(size / 2**20, 1),
            "free_gib": round(shutil.disk_usage(nearest).free / 2**30, 1),
        },
        "missing_for_extra": {
            extra: missing
            for extra, packages in _EXTRAS.items()
            if (missing := [package for package in packages if importlib.util.find_spec(package) is None])
        },
    }


@verb
def doctor(json: JsonFlag = False, debug: DebugFlag = False) -> None:
    """Show versions, devices, memory, the cache, and what is missing for which extra.

    Example: temper doctor --json
    """
    facts = _examined()
    if json:
        emit(facts)
        return
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    typer.echo(f"versions   {versions}")
    typer.echo(f"platform   {facts['platform']}, {facts['cpus']} CPUs, {facts['torch_threads']} torch threads")
    typer.echo(f"devices    {', '.join(facts['devices'])}")
    typer.echo(f"memory     {facts['memory_gib']['free']} of {facts['memory_gib']['total']} GiB free")
    typer.echo(
        f"cache      {facts['cache']['folder']}: {facts['cache']['mib']} MiB used, {facts['cache']['free_gib']} GiB free on the disk"
    )
    if facts["git"]:
        typer.echo(f"source     {facts['git']['commit'][:12]}{' with changes' if facts['git']['modified'] else ''}")
    for extra, packages in facts["missing_for_extra"].items():
        typer.echo(f"extra      {extra}: {', '.join(packages)} not installed (pip install 'temper[{extra}]')")
